"""Memory-mapped metrics files of prometheus_client, made safe for a full disk.

prometheus_client maps sparse files. On a full disk, a write to such a map ends the process with
SIGBUS, and then each successor. This module allocates the bytes on disk before mapping them. If
that fails, the process continues to count in its own memory and logs a warning. The size and the
number of the files are bounded.
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
"""Maximum bytes of one file; a series takes about 200."""

MAX_ENDED = 8
"""Maximum number of ended processes whose counts are kept."""

_FIRST_SIZE = 2**16
_SPARE = 128


class ReservedDict(MmapedDict):
    """Replacement for MmapedDict of prometheus_client 0.26; it depends on private attributes."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        self._detached = False
        if not read_mode:
            try:
                with Path(filename).open("ab", buffering=0) as file:
                    _allocate(file.fileno(), _FIRST_SIZE)
            except OSError as error:
                _log_once(error)
                # A file without a header is unreadable and would break the export of all files.
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
        """Enlarge the map in the file, or in memory if the file cannot grow."""
        if not self._detached:
            try:
                if capacity > MAX_FILE:
                    raise OSError(f"{self._fname} would exceed {MAX_FILE} bytes")
                _allocate(self._f.fileno(), capacity)
                self._m = mmap.mmap(self._f.fileno(), capacity)
                self._capacity = capacity
                return
            except OSError as error:
                _log_once(error)
                self._detached = True
        content = self._m[: self._used]
        self._m = mmap.mmap(-1, capacity)
        self._m[: len(content)] = content
        self._capacity = capacity


def keep_metrics_files_bounded() -> None:
    """Patch prometheus_client to use ReservedDict; call it before creating a metric.

    Also remove the files of processes that ended longest ago.
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


def _allocate(descriptor: int, size: int) -> None:
    """Extend a file that is open for appending to `size` bytes on disk.

    Raises:
        OSError: the disk is full.
    """
    # Written zeros occupy space on every file system; a hole does not.
    while (missing := size - os.fstat(descriptor).st_size) > 0:
        os.write(descriptor, bytes(missing))


def _last_change(files: list[Path]) -> float:
    """Return the latest modification time, in seconds; 0 if another process removed a file."""
    with contextlib.suppress(OSError):
        return max(file.stat().st_mtime for file in files)
    return 0.0


def _log_once(error: OSError) -> None:
    log.warning("metrics are no longer complete: a file of theirs cannot grow", error=str(error))
