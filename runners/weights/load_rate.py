"""Measured speed of loads, for estimates of the next one."""

from __future__ import annotations

import threading

_ASSUMED_BYTES_PER_SECOND = 2e9
_WEIGHT = 0.5


class LoadRate:
    """Moving average of bytes per second, from disk to the device. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes_per_second: float | None = None

    def observe(self, size: int, seconds: float) -> None:
        """Record a load of `size` bytes on the device; one without bytes says nothing."""
        if size <= 0 or seconds <= 0:
            return
        rate = size / seconds
        with self._lock:
            known = self._bytes_per_second
            self._bytes_per_second = rate if known is None else known + _WEIGHT * (rate - known)

    @property
    def observed(self) -> float:
        """Bytes per second; 2e9 before the first load."""
        return self._bytes_per_second or _ASSUMED_BYTES_PER_SECOND

    def seconds(self, size: int) -> float:
        """Return the expected seconds of loading `size` bytes."""
        return size / self.observed
