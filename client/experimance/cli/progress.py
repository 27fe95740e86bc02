"""Progress bar and live preview of one request."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from PIL import Image
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from experimance.cli.console import err_console, warn
from experimance.cli.terminal_image import Protocol, TerminalPicture
from experimance.errors import InvalidRequest
from experimance.events import Done, Event, Queued, Started, Step
from experimance.results import Picture

# Fields that the commands add on their own; an older service may reject them.
_IMPLICIT_FIELDS = {"embed_inputs"}


class ProgressView:
    """Live view of a stream's events; invisible unless stderr is a terminal."""

    def __init__(self, title: str, protocol: Protocol | None) -> None:
        self._protocol = protocol
        self._preview: Image.Image | None = None
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            TimeElapsedColumn(),
            console=err_console,
        )
        self._task = self._progress.add_task(title, total=None, state="")
        self._live = Live(
            get_renderable=self._renderable,
            console=err_console,
            transient=True,
            refresh_per_second=5,
        )

    def __enter__(self) -> ProgressView:
        if err_console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, event: Event) -> None:
        """Update the view with an event."""
        match event:
            case Queued(position):
                self._update(state=f"{position} ahead" if position else "next in the queue")
            case Started():
                self._update(state="started")
            case Step(step, steps):
                self._update(completed=step, total=steps, state=f"step {step} of {steps}")
                if event.preview is not None and self._protocol is not None:
                    self._preview = event.preview
            case Done():
                self._update(state="done")

    def _update(self, **fields: Any) -> None:
        self._progress.update(self._task, **fields)

    def _renderable(self) -> RenderableType:
        if self._preview is None or self._protocol is None:
            return self._progress
        return Group(TerminalPicture(self._preview, self._protocol), self._progress)


def generate_with_progress(
    ask: Callable[..., Generator[Event]], title: str, protocol: Protocol | None, **fields: Any
) -> Picture:
    """Generate an image with a progress bar.

    Args:
        ask: `stream` method of a client.
        title: Label of the progress bar.
        protocol: Terminal protocol for previews; None disables them.
        **fields: Arguments of `ask`. Fields that the command added on its own are dropped with a
            warning if the service rejects them.

    Raises:
        ExperimanceError: The request failed.
    """
    while True:
        try:
            with ProgressView(title, protocol) as view:
                for event in ask(**fields):
                    view.show(event)
                    if isinstance(event, Done):
                        return event.picture
        except InvalidRequest as error:
            rejected = (
                _IMPLICIT_FIELDS & fields.keys() & {problem.field for problem in error.detail}
            )
            if not rejected:
                raise
            for name in sorted(rejected):
                warn(f"the service does not support {name}; the request is repeated without it")
                del fields[name]


def show_result(picture: Picture, protocol: Protocol | None) -> None:
    """Print the finished image on the terminal, if `protocol` is not None."""
    if protocol is not None:
        err_console.print(TerminalPicture(picture.image, protocol))


def summary(picture: Picture) -> Text:
    """Return a one-line summary of a result."""
    metadata = picture.metadata
    parts = [
        picture.model,
        f"seed {picture.seed}",
        f"{metadata.get('steps')} steps",
        f"{metadata.get('width')}x{metadata.get('height')}",
        f"{picture.seconds:.2f} s",
    ]
    return Text(" · ".join(parts), style="dim")
