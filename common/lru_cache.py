"""Least-recently-used cache, bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LRUCache(Generic[K, V]):
    """Cache that evicts the least recently used values beyond `bound` bytes.

    The newest value is never evicted, whatever its size. Not thread-safe.

    Args:
        bound: maximum size of all values in bytes.
        size_of: function that returns the size of a value in bytes.
        most: maximum number of values; None is no limit.
    """

    def __init__(self, bound: int, size_of: Callable[[V], int], most: int | None = None) -> None:
        self._bound = bound
        self._size_of = size_of
        self._most = most
        self._values: OrderedDict[K, V] = OrderedDict()
        self.used_bytes = 0
        """Size of all values in bytes."""

    def __contains__(self, key: K) -> bool:
        return key in self._values

    def __len__(self) -> int:
        return len(self._values)

    def get_or_create(self, key: K, make: Callable[[], V]) -> V:
        """Return the value of a key; create it if it is missing."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        value = self._values[key] = make()
        self.used_bytes += self._size_of(value)
        while len(self._values) > 1 and self._is_full:
            _, evicted = self._values.popitem(last=False)
            self.used_bytes -= self._size_of(evicted)
        return value

    def clear(self) -> None:
        """Evict all values."""
        self._values.clear()
        self.used_bytes = 0

    @property
    def _is_full(self) -> bool:
        too_many = self._most is not None and len(self._values) > self._most
        return too_many or self.used_bytes > self._bound
