"""How far an import is, file by file: collected from many threads, told to one listener."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

Status = Literal["waiting", "downloading", "verifying", "converting", "done"]


@dataclass(frozen=True, slots=True)
class FileProgress:
    """One file of a source on its way into the store; sizes in bytes."""

    name: str
    status: Status
    bytes_downloaded: int
    total_bytes: int

    @property
    def percent(self) -> float:
        """How much of it has arrived, 0 to 100."""
        return 100.0 * self.bytes_downloaded / self.total_bytes if self.total_bytes else 100.0

    def as_dict(self) -> dict[str, float | int | str]:
        """For those who read it as JSON."""
        return {
            "status": self.status,
            "bytes_downloaded": self.bytes_downloaded,
            "total_bytes": self.total_bytes,
            "percent": round(self.percent, 1),
        }


Listener = Callable[[FileProgress], None]


class Progress:
    """Thread-safe. `listener` hears every change, on the thread that made it."""

    def __init__(self, listener: Listener = lambda change: None) -> None:
        self._listener = listener
        self._lock = threading.Lock()
        self._files: dict[str, FileProgress] = {}

    def snapshot(self) -> tuple[FileProgress, ...]:
        """Every file so far, in order of appearance."""
        with self._lock:
            return tuple(self._files.values())

    def begin(self, name: str, total: int, there: int = 0) -> None:
        """A file of `total` bytes starts, or starts again; `there` of them are on disk."""
        self._set(FileProgress(name, "downloading", there, total))

    def advance(self, name: str, count: int) -> None:
        """`count` more bytes have arrived."""
        with self._lock:
            known = self._files[name]
            changed = replace(known, bytes_downloaded=known.bytes_downloaded + count)
            self._files[name] = changed
            self._listener(changed)

    def mark(self, name: str, status: Status) -> None:
        """The file's next stage."""
        self._set(replace(self._files[name], status=status))

    def mark_all(self, before: Status, after: Status) -> None:
        """The next stage of every file in stage `before`."""
        for file in self.snapshot():
            if file.status == before:
                self.mark(file.name, after)

    def _set(self, file: FileProgress) -> None:
        with self._lock:
            self._files[file.name] = file
            self._listener(file)
