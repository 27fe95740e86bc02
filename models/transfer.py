"""Downloading one object in parallel ranges, so that a killed download goes on where it was."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import google_crc32c

from models.progress import Progress
from models.sources import SourceError, SourceFile

RangeReader = Callable[[BinaryIO, int, int], None]
"""Writes the object's bytes from the first to the second offset, both included, to a stream."""

_BLOCK = 8 << 20


@dataclass(frozen=True, slots=True)
class TransferOptions:
    """How an object is cut: `workers` ranges of `range_bytes` each are under way at once.

    Transient errors of a range are tried again for `retry_seconds`.
    """

    workers: int = 8
    range_bytes: int = 16 << 20
    retry_seconds: float = 120.0


class ChecksumError(SourceError):
    """What arrived is not what the bucket says it holds."""


def download(
    read_range: RangeReader,
    file: SourceFile,
    label: str,
    target: Path,
    progress: Progress,
    options: TransferOptions,
) -> None:
    """Bring an object to `target`: whole, with its CRC32C checked, or not at all.

    Finished ranges are kept in `<target>.part` and listed in `<target>.journal`. After a kill a
    second call fetches the others only, at most one range per worker twice.

    Args:
        read_range: fetches one range; called on several threads.
        file: the object's size, checksum and version.
        label: its name in progress and errors.
        target: where it goes; the folder exists.
        progress: hears of every block.
        options: workers and size of a range.

    Raises:
        ChecksumError: the bytes differ from the bucket's CRC32C; they are thrown away.
        SourceError: the disk is full.
        Exception: whatever `read_range` raises; what arrived is kept for the next call.
    """
    part, journal = target.with_name(f"{target.name}.part"), _Journal(target, file, options)
    progress.begin(label, file.size, journal.bytes_there())
    _allocate(part, file, label)
    stop = threading.Event()

    def fetch(index: int) -> None:
        if stop.is_set():
            return
        start, end = journal.span(index)
        with part.open("r+b") as stream:
            stream.seek(start)
            window = _Window(stream, end - start, label, progress)
            read_range(window, start, end - 1)  # type: ignore[arg-type]
            if window.missing:
                raise SourceError(f"{label}: a range ended {window.missing} bytes early")
        journal.add(index)

    with ThreadPoolExecutor(options.workers, "download") as pool:
        futures = [pool.submit(fetch, index) for index in journal.missing()]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
    for future in futures:
        future.result()
    progress.mark(label, "verifying")
    if file.crc32c is not None and crc32c_of(part) != file.crc32c:
        part.unlink()
        journal.remove()
        raise ChecksumError(f"{label}: what arrived does not match the bucket's CRC32C")
    part.replace(target)
    journal.remove()


def crc32c_of(path: Path) -> str:
    """A file's CRC32C as Google's API writes it: base64 of the big-endian value."""
    checksum = google_crc32c.Checksum()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            checksum.update(block)
    return base64.b64encode(checksum.digest()).decode()


def sha256_of(path: Path) -> str:
    """A file's SHA-256, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class _Window:
    """A stream that takes so many bytes and no more, and tells of each block."""

    def __init__(self, stream: BinaryIO, size: int, label: str, progress: Progress) -> None:
        self._stream = stream
        self._label = label
        self._progress = progress
        self.missing = size

    def write(self, block: bytes) -> int:
        """Write; a server that ignores the range and sends more is an error, not a longer file."""
        if len(block) > self.missing:
            raise SourceError(f"{self._label}: the server sent more than the range asked for")
        self._stream.write(block)
        self.missing -= len(block)
        self._progress.advance(self._label, len(block))
        return len(block)

    def flush(self) -> None:
        """For those who treat it as a file."""
        self._stream.flush()


class _Journal:
    """Which ranges of a `.part` file are there. A line each, appended once the bytes are written.

    It counts only for the same version of the object, cut in the same way.
    """

    def __init__(self, target: Path, file: SourceFile, options: TransferOptions) -> None:
        self._path = target.with_name(f"{target.name}.journal")
        self._size, self._step = file.size, options.range_bytes
        self._lock = threading.Lock()
        header = json.dumps([file.size, options.range_bytes, file.crc32c, file.version])
        lines = self._path.read_text(encoding="ascii").split("\n") if self._path.exists() else [""]
        if lines[0] == header and target.with_name(f"{target.name}.part").exists():
            # The last piece is either empty or a line that the kill cut short.
            self._done = {int(line) for line in lines[1:-1]}
        else:
            self._done = set()
            target.with_name(f"{target.name}.part").unlink(missing_ok=True)
            self._path.write_text(header + "\n", encoding="ascii")

    def span(self, index: int) -> tuple[int, int]:
        """The range's first offset and the one after its last."""
        return index * self._step, min((index + 1) * self._step, self._size)

    def missing(self) -> list[int]:
        """Indices of the ranges to fetch."""
        return [i for i in range(-(-self._size // self._step)) if i not in self._done]

    def bytes_there(self) -> int:
        """How much of the object is on disk."""
        return sum(end - start for start, end in map(self.span, self._done))

    def add(self, index: int) -> None:
        """The range is written."""
        with self._lock, self._path.open("a", encoding="ascii") as stream:
            stream.write(f"{index}\n")

    def remove(self) -> None:
        """The object is whole, or worthless."""
        self._path.unlink(missing_ok=True)


def _allocate(part: Path, file: SourceFile, label: str) -> None:
    with part.open("ab") as stream:
        if not file.size:
            return
        if not hasattr(os, "posix_fallocate"):
            # macOS has none; a disk that is full shows while the ranges are written.
            stream.truncate(file.size)
            return
        try:
            os.posix_fallocate(stream.fileno(), 0, file.size)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
                raise SourceError(f"{label}: no room for {file.size} bytes on the disk") from error
            if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL}:
                raise
            stream.truncate(file.size)
