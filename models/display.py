"""What an import prints: bars on a terminal, JSON lines elsewhere."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

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

from models.progress import FileProgress, Progress

_SECONDS_BETWEEN_LINES = 1.0

Say = Callable[[str], None]


@contextlib.contextmanager
def display(stream: TextIO = sys.stdout) -> Iterator[tuple[Progress, Say]]:
    """A Progress that shows itself on `stream`, and a function that prints a line there."""
    if stream.isatty():
        with _bars(stream) as shown:
            yield shown
    else:
        yield Progress(_JsonLines(stream)), lambda text: _line(stream, text)


@contextlib.contextmanager
def _bars(stream: TextIO) -> Iterator[tuple[Progress, Say]]:
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
    """One JSON object per line: every change of status, and bytes at most once a second."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last: dict[str, tuple[str, float]] = {}

    def __call__(self, file: FileProgress) -> None:
        status, when = self._last.get(file.name, ("", 0.0))
        now = time.monotonic()
        if file.status == status and now - when < _SECONDS_BETWEEN_LINES:
            return
        self._last[file.name] = (file.status, now)
        _line(self._stream, json.dumps({"file": file.name, **file.as_dict()}))


def _line(stream: TextIO, text: str) -> None:
    stream.write(text + "\n")
    stream.flush()
