"""Per-file progress of an import, collected from many threads and displayed."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars

Status = Literal["waiting", "downloading", "verifying", "converting", "done"]
_SECONDS_BETWEEN_LINES = 1.0
Printer = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class FileProgress:
    """Import progress of one file; sizes are in bytes."""

    name: str
    status: Status
    bytes_downloaded: int
    total_bytes: int

    @property
    def percent(self) -> float:
        """Downloaded share, from 0 to 100."""
        return 100.0 * self.bytes_downloaded / self.total_bytes if self.total_bytes else 100.0

    def as_dict(self) -> dict[str, float | int | str]:
        """Return a JSON-compatible dictionary; `percent` has one decimal."""
        return {
            "status": self.status,
            "bytes_downloaded": self.bytes_downloaded,
            "total_bytes": self.total_bytes,
            "percent": round(self.percent, 1),
        }


Listener = Callable[[FileProgress], None]


class Progress:
    """Thread-safe progress of all files.

    `listener` is called for every change, on the thread that made it and under a lock.
    """

    def __init__(self, listener: Listener = lambda change: None) -> None:
        self._listener = listener
        self._lock = threading.Lock()
        self._files: dict[str, FileProgress] = {}

    def snapshot(self) -> tuple[FileProgress, ...]:
        """Return every file so far, in order of appearance."""
        with self._lock:
            return tuple(self._files.values())

    def begin(self, name: str, total: int, there: int = 0) -> None:
        """Record that a download starts, restarts or resumes.

        Args:
            name: Label of the file.
            total: Size in bytes.
            there: Bytes already on disk.
        """
        self._set(FileProgress(name, "downloading", there, total))

    def advance(self, name: str, count: int) -> None:
        """Record `count` more downloaded bytes."""
        with self._lock:
            known = self._files[name]
            changed = replace(known, bytes_downloaded=known.bytes_downloaded + count)
            self._files[name] = changed
            self._listener(changed)

    def mark(self, name: str, status: Status) -> None:
        """Set the file's status."""
        self._set(replace(self._files[name], status=status))

    def mark_all(self, before: Status, after: Status) -> None:
        """Change the status of every file from `before` to `after`."""
        for file in self.snapshot():
            if file.status == before:
                self.mark(file.name, after)

    def _set(self, file: FileProgress) -> None:
        with self._lock:
            self._files[file.name] = file
            self._listener(file)


@contextlib.contextmanager
def progress_display(stream: TextIO = sys.stdout) -> Iterator[tuple[Progress, Printer]]:
    """Display progress on `stream`: as bars on a terminal, else as JSON lines.

    Yields:
        The Progress to update, and a function that prints a line on `stream`.
    """
    if stream.isatty():
        with _progress_bars(stream) as shown:
            yield shown
    else:
        yield Progress(_JsonLines(stream)), lambda text: _write_line(stream, text)


@contextlib.contextmanager
def _progress_bars(stream: TextIO) -> Iterator[tuple[Progress, Printer]]:
    console = Console(file=stream)
    with Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}"),
        console=console,
        transient=True,
    ) as bars:
        tasks: dict[str, TaskID] = {}

        def show(file: FileProgress) -> None:
            if file.name not in tasks:
                tasks[file.name] = bars.add_task(file.name, status=file.status)
            bars.update(
                tasks[file.name],
                total=file.total_bytes,
                completed=file.bytes_downloaded,
                status=file.status,
                visible=file.status != "done",
            )

        yield Progress(show), lambda text: console.print(text, highlight=False, markup=False)


class _JsonLines:
    """Listener that writes JSON lines: every status change, and bytes at most once a second."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last: dict[str, tuple[str, float]] = {}

    def __call__(self, file: FileProgress) -> None:
        status, written_at = self._last.get(file.name, ("", 0.0))
        now = time.monotonic()
        if file.status == status and now - written_at < _SECONDS_BETWEEN_LINES:
            return
        self._last[file.name] = (file.status, now)
        _write_line(self._stream, json.dumps({"file": file.name, **file.as_dict()}))


def _write_line(stream: TextIO, text: str) -> None:
    stream.write(text + "\n")
    stream.flush()
