"""Resumable download of one object in parallel byte ranges."""

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

from models.sources.base import SourceError, SourceFile
from models.sources.progress import Progress

RangeReader = Callable[[BinaryIO, int, int], None]
"""Function that writes the bytes between two inclusive offsets of the object to a stream."""

_BLOCK = 8 << 20


@dataclass(frozen=True, slots=True)
class TransferOptions:
    """Transfer settings: `workers` ranges of `range_bytes` bytes each are in flight at once.

    Transient errors of a range are retried for `retry_seconds`.
    """

    workers: int = 8
    range_bytes: int = 16 << 20
    retry_seconds: float = 120.0


class ChecksumError(SourceError):
    """Downloaded bytes differ from the bucket's checksum."""


def download(
    read_range: RangeReader,
    file: SourceFile,
    label: str,
    target: Path,
    progress: Progress,
    options: TransferOptions,
) -> None:
    """Download an object atomically to `target` and check its CRC32C.

    Finished ranges are kept in `<target>.part` and listed in `<target>.journal`. After a kill the
    next call fetches only the missing ranges; at most one range per worker is fetched twice.

    Args:
        read_range: Function that fetches one range; called on several threads.
        file: The object's size, checksum and version.
        label: Name of the object in progress and errors.
        target: Path of the result; its folder exists.
        progress: Receiver of the downloaded byte counts.
        options: Number of workers and size of a range.

    Raises:
        ChecksumError: The bytes differ from the bucket's CRC32C; they are discarded.
        SourceError: A range has the wrong length, or the disk is full.
        Exception: Any exception of `read_range`; finished ranges are kept for the next call.
    """
    part, journal = target.with_name(f"{target.name}.part"), _RangeLog(target, file, options)
    progress.begin(label, file.size, journal.finished_bytes())
    _allocate(part, file, label)
    stop = threading.Event()

    def fetch(index: int) -> None:
        if stop.is_set():
            return
        start, end = journal.span(index)
        with part.open("r+b") as stream:
            stream.seek(start)
            window = _BoundedWriter(stream, end - start, label, progress)
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
        raise ChecksumError(f"{label}: the download does not match the bucket's CRC32C")
    part.replace(target)
    journal.remove()


def crc32c_of(path: Path) -> str:
    """Return a file's CRC32C in the format of Google's API: base64 of the big-endian value."""
    checksum = google_crc32c.Checksum()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            checksum.update(block)
    return base64.b64encode(checksum.digest()).decode()


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class _BoundedWriter:
    """Stream that accepts at most `size` bytes and reports each block to `progress`."""

    def __init__(self, stream: BinaryIO, size: int, label: str, progress: Progress) -> None:
        self._stream = stream
        self._label = label
        self._progress = progress
        self.missing = size

    def write(self, block: bytes) -> int:
        """Write a block and return its size in bytes.

        Raises:
            SourceError: The server ignored the range and sent more.
        """
        if len(block) > self.missing:
            raise SourceError(f"{self._label}: the server sent more than the requested range")
        self._stream.write(block)
        self.missing -= len(block)
        self._progress.advance(self._label, len(block))
        return len(block)

    def flush(self) -> None:
        """Flush the underlying stream."""
        self._stream.flush()


class _RangeLog:
    """Journal of the finished ranges of a `.part` file.

    A range's line is appended after its bytes are written. The journal is valid only for the same
    version of the object and the same range size.
    """

    def __init__(self, target: Path, file: SourceFile, options: TransferOptions) -> None:
        self._path = target.with_name(f"{target.name}.journal")
        self._size, self._step = file.size, options.range_bytes
        self._lock = threading.Lock()
        header = json.dumps([file.size, options.range_bytes, file.crc32c, file.version])
        lines = self._path.read_text(encoding="ascii").split("\n") if self._path.exists() else [""]
        if lines[0] == header and target.with_name(f"{target.name}.part").exists():
            # The last element is empty, or a line truncated by a kill.
            self._done = {int(line) for line in lines[1:-1]}
        else:
            self._done = set()
            target.with_name(f"{target.name}.part").unlink(missing_ok=True)
            self._path.write_text(header + "\n", encoding="ascii")

    def span(self, index: int) -> tuple[int, int]:
        """Return the range's start (inclusive) and end (exclusive) offsets."""
        return index * self._step, min((index + 1) * self._step, self._size)

    def missing(self) -> list[int]:
        """Return the indices of the ranges to fetch."""
        return [i for i in range(-(-self._size // self._step)) if i not in self._done]

    def finished_bytes(self) -> int:
        """Return the number of bytes in finished ranges."""
        return sum(end - start for start, end in map(self.span, self._done))

    def add(self, index: int) -> None:
        """Record that the range is written."""
        with self._lock, self._path.open("a", encoding="ascii") as stream:
            stream.write(f"{index}\n")

    def remove(self) -> None:
        """Delete the journal."""
        self._path.unlink(missing_ok=True)


def _allocate(part: Path, file: SourceFile, label: str) -> None:
    with part.open("ab") as stream:
        if not file.size:
            return
        if not hasattr(os, "posix_fallocate"):
            # macOS lacks it; there a full disk fails while the ranges are written.
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
