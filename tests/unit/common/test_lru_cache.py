"""Eviction of the least recently used entries within a byte limit."""

from __future__ import annotations

from functools import partial

import pytest

from common.lru_cache import LRUCache


def make(cache: LRUCache[str, bytes], *keys: str, size: int = 10) -> list[str]:
    """Ask for every key; which of them had to be made."""
    made: list[str] = []

    def of(key: str) -> bytes:
        made.append(key)
        return bytes(size)

    for key in keys:
        assert len(cache.get_or_create(key, partial(of, key))) == size
    return made


def test_entries_are_made_once_and_least_recent_is_evicted() -> None:
    cache: LRUCache[str, bytes] = LRUCache(30, len)
    assert make(cache, "a", "b", "c", "a") == ["a", "b", "c"]
    assert cache.used_bytes == 30
    assert make(cache, "d") == ["d"]
    assert cache.used_bytes == 30
    assert make(cache, "a", "c", "d") == []
    assert make(cache, "b") == ["b"]


def test_latest_entry_is_kept_at_any_size() -> None:
    cache: LRUCache[str, bytes] = LRUCache(30, len)
    make(cache, "a", "b")
    make(cache, "whale", size=100)
    assert (len(cache), cache.used_bytes) == (1, 100)
    assert make(cache, "whale", size=100) == []
    make(cache, "a")
    assert (len(cache), cache.used_bytes) == (1, 10)


def test_small_ones_are_bounded_by_count() -> None:
    cache: LRUCache[str, bytes] = LRUCache(30, len, most=2)
    make(cache, "a", "b", "c", size=1)
    assert (len(cache), cache.used_bytes) == (2, 2)
    assert make(cache, "b", "c", "a", size=1) == ["a"]


def test_failed_creation_stores_nothing() -> None:
    cache: LRUCache[str, bytes] = LRUCache(30, len)

    def fail() -> bytes:
        raise MemoryError

    for _ in range(2):
        with pytest.raises(MemoryError):
            cache.get_or_create("a", fail)
    assert (len(cache), cache.used_bytes) == (0, 0)


def test_cache_can_be_cleared() -> None:
    cache: LRUCache[str, bytes] = LRUCache(30, len)
    make(cache, "a", "b")
    cache.clear()
    assert (len(cache), cache.used_bytes) == (0, 0)
    assert make(cache, "a") == ["a"]
