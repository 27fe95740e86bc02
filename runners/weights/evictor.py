"""Eviction of the least recently used weights."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping

import structlog

from runners.errors import LoadError
from runners.weights.vram_budget import VramBudget

log = structlog.get_logger(__name__)

_POLL_SECONDS = 0.02


class Evictor:
    """Eviction of idle weights, the least recently used first, until a new entry fits the budget.

    Args:
        budget: byte budget of the weights.
        in_use: function that returns the keys of entries that must not be evicted.
        next_in_line: function that returns the keys that the next request needs. While all of them
            are loaded they stay, because loads for later requests could otherwise evict each of
            them before the request starts, for ever.
    """

    def __init__(
        self,
        budget: VramBudget,
        in_use: Callable[[], set[str]],
        next_in_line: Callable[[], set[str]] = set,
    ) -> None:
        self._budget = budget
        self._in_use = in_use
        self._next_in_line = next_in_line
        self._last_used: dict[str, int] = {}
        self._use_counter = itertools.count()
        self.lock = threading.Lock()
        """Held during an eviction; whoever holds it sees entries that stay if they are in use."""
        self.is_blocked = False
        """Whether an eviction waits for running requests to end."""

    def touch(self, keys: Iterable[str]) -> None:
        """Mark entries as used now."""
        for key in keys:
            self._last_used[key] = next(self._use_counter)

    def make_room(
        self,
        what: str,
        needed: Callable[[], int],
        used: Callable[[], int],
        loaded: Callable[[], Mapping[str, Callable[[], object] | None]],
        kept: Collection[str] = (),
    ) -> None:
        """Evict idle entries until a new one fits; wait for running requests if all are in use.

        Args:
            what: the new entry, for messages.
            needed: function that returns the bytes that it adds; shared components count only
                while they are not loaded.
            used: function that returns the bytes of all loaded weights.
            loaded: function that returns the functions that free each loaded entry, by key; None
                for an entry that cannot be freed by itself.
            kept: keys of entries that stay.

        Raises:
            LoadError: the new entry exceeds the budget alone.
        """
        budget = self._budget.bytes
        if budget is None:
            return
        try:
            while used() + needed() > budget:
                with self.lock:
                    entries = loaded()
                    freeable = {
                        key: free
                        for key, free in entries.items()
                        if free is not None and key not in kept
                    }
                    idle = freeable.keys() - self._in_use()
                    wanted = self._next_in_line()
                    if wanted <= entries.keys():
                        idle -= wanted
                    if idle:
                        oldest = min(idle, key=lambda key: self._last_used.get(key, -1))
                        freeable[oldest]()
                        log.info("evicted", entry=oldest)
                if not freeable:
                    raise LoadError(
                        f"{what}: its {needed() / 1e9:.1f} GB do not fit into the "
                        f"{budget / 1e9:.1f} GB for weights (VRAM_BUDGET_GB)"
                    )
                if not idle:
                    self.is_blocked = True
                    time.sleep(_POLL_SECONDS)
        finally:
            self.is_blocked = False
