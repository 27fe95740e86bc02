"""A request on the screen: its progress, and the picture as it comes to be."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from PIL import Image
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from experimance.command.console import people, warn
from experimance.command.terminal_picture import Protocol, TerminalPicture
from experimance.errors import InvalidRequest
from experimance.events import Done, Event, Queued, Started, Step
from experimance.picture import Picture

# What the command asks for by itself; a service that does not know it paints all the same.
_OWN_WISHES = {"embed_inputs"}


class Screen:
    """Shows events; on anything but a terminal it shows nothing."""

    def __init__(self, title: str, protocol: Protocol | None) -> None:
        self._protocol = protocol
        self._shown: Image.Image | None = None
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            TimeElapsedColumn(),
            console=people,
        )
        self._task = self._progress.add_task(title, total=None, state="")
        self._live = Live(
            get_renderable=self._renderable, console=people, transient=True, refresh_per_second=5
        )

    def __enter__(self) -> Screen:
        if people.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, event: Event) -> None:
        """Show how far it is."""
        match event:
            case Queued(position):
                self._update(state=f"{position} before it" if position else "next in line")
            case Started():
                self._update(state="started")
            case Step(step, steps):
                self._update(completed=step, total=steps, state=f"step {step} of {steps}")
                if event.preview is not None and self._protocol is not None:
                    self._shown = event.preview
            case Done():
                self._update(state="done")

    def _update(self, **fields: Any) -> None:
        self._progress.update(self._task, **fields)

    def _renderable(self) -> RenderableType:
        if self._shown is None or self._protocol is None:
            return self._progress
        return Group(TerminalPicture(self._shown, self._protocol), self._progress)


def painted(
    ask: Callable[..., Generator[Event]], title: str, protocol: Protocol | None, **fields: Any
) -> Picture:
    """Paint a picture, shown while it is painted.

    Args:
        ask: a client's `stream`.
        title: what the progress bar says.
        protocol: how previews are shown, None for not at all.
        **fields: for `ask`. Those that a service refuses as unknown though nobody asked for them
            are left out, with a warning.
    """
    while True:
        try:
            with Screen(title, protocol) as screen:
                for event in ask(**fields):
                    screen.show(event)
                    if isinstance(event, Done):
                        return event.picture
        except InvalidRequest as error:
            refused = _OWN_WISHES & fields.keys() & {problem.field for problem in error.detail}
            if not refused:
                raise
            for name in sorted(refused):
                warn(f"the service does not know {name}; painted without")
                del fields[name]


def final(picture: Picture, protocol: Protocol | None) -> None:
    """Show the finished picture."""
    if protocol is not None:
        people.print(TerminalPicture(picture.image, protocol))


def summary(picture: Picture) -> Text:
    """How a picture was painted, in a line."""
    painted_with = picture.metadata
    parts = [
        picture.model,
        f"seed {picture.seed}",
        f"{painted_with.get('steps')} steps",
        f"{painted_with.get('width')}x{painted_with.get('height')}",
        f"{picture.seconds:.2f} s",
    ]
    return Text(" · ".join(parts), style="dim")
