"""How fast weights arrive, for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable

from models.progress import FileProgress
from runners.metrics import DOWNLOAD_BYTES, DOWNLOAD_SECONDS


class DownloadMeter:
    """Listens to an import's Progress, which calls it from one thread at a time.

    Files are told apart by their address, whose scheme is the label. What an earlier start has
    already brought does not count.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[str, tuple[float, int]] = {}

    def __call__(self, file: FileProgress) -> None:
        """One file's new state."""
        began, before = self._known.get(file.name, (self._clock(), file.bytes_downloaded))
        self._known[file.name] = began, file.bytes_downloaded
        arrived = file.bytes_downloaded - before
        if arrived <= 0:
            return
        scheme = file.name.partition(":")[0]
        DOWNLOAD_BYTES.labels(scheme).inc(arrived)
        if file.bytes_downloaded >= file.total_bytes:
            DOWNLOAD_SECONDS.labels(scheme).observe(self._clock() - began)
