"""The files of metrics, which prometheus_client maps into memory, on a disk that may be full.

Its own map reaches beyond what the disk holds: a write there ends the process with SIGBUS, and
each successor too. Here the bytes are on the disk before they are mapped; where that fails, a
process goes on counting in its own memory, and says so. Files and their number are bounded.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import prometheus_client.values
import psutil
import structlog
from prometheus_client.mmap_dict import MmapedDict

log = structlog.get_logger(__name__)

MAX_FILE = 8 * 2**20
"""Bytes of one file; a series has some 200."""

MAX_ENDED = 8
"""Processes that have ended whose counts are kept."""

_FIRST_SIZE = 2**16
_SPARE = 128


class ReservedDict(MmapedDict):
    """In the place of prometheus_client 0.26's, whose attributes it knows."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        self._detached = False
        if not read_mode:
            try:
                with Path(filename).open("ab", buffering=0) as file:
                    _reserve(file.fileno(), _FIRST_SIZE)
            except OSError as error:
                _told(error)
                # A file without a head cannot be read, and would take the others' export with it.
                Path(filename).unlink(missing_ok=True)
                filename, self._detached = os.devnull, True
        if not self._detached:
            super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]
            return
        self._f = Path(filename).open("rb")  # noqa: SIM115
        self._m = mmap.mmap(-1, _FIRST_SIZE)
        self._capacity, self._used = _FIRST_SIZE, 8
        self._positions: dict[str, int] = {}

    def _init_value(self, key: str) -> None:
        needed = self._used + len(key.encode()) + _SPARE
        if needed > self._capacity:
            self._grow(max(2 * self._capacity, needed))
        super()._init_value(key)  # type: ignore[no-untyped-call]

    def _grow(self, capacity: int) -> None:
        """Have room for more, in the file or without it."""
        if not self._detached:
            try:
                if capacity > MAX_FILE:
                    raise OSError(f"{self._fname} would exceed {MAX_FILE} bytes")
                _reserve(self._f.fileno(), capacity)
                self._m = mmap.mmap(self._f.fileno(), capacity)
                self._capacity = capacity
                return
            except OSError as error:
                _told(error)
                self._detached = True
        known = self._m[: self._used]
        self._m = mmap.mmap(-1, capacity)
        self._m[: len(known)] = known
        self._capacity = capacity


def keep_metrics_files_bounded() -> None:
    """Have this process's metrics in such files; before the first of them is made.

    Removes the files of processes that ended longest ago.
    """
    values: Any = prometheus_client.values
    values.MmapedDict = ReservedDict
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if folder is None:
        return
    ended: defaultdict[int, list[Path]] = defaultdict(list)
    for file in Path(folder).glob("*_*.db"):
        pid = file.stem.rpartition("_")[2]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            ended[int(pid)].append(file)
    by_age = sorted(ended.values(), key=_last_change)
    for file in (file for files in by_age[:-MAX_ENDED] for file in files):
        file.unlink(missing_ok=True)


def _reserve(descriptor: int, size: int) -> None:
    """Let a file that is open for appending have a size, on the disk; raises OSError."""
    # Zeros that were written have their place on every file system; a hole has none.
    while (missing := size - os.fstat(descriptor).st_size) > 0:
        os.write(descriptor, bytes(missing))


def _last_change(files: list[Path]) -> float:
    """When one of them was last written; 0 where another process has removed them."""
    with contextlib.suppress(OSError):
        return max(file.stat().st_mtime for file in files)
    return 0.0


def _told(error: OSError) -> None:
    log.warning("metrics are no longer complete: a file of theirs cannot grow", error=str(error))
