"""`experimance watch`: an image that follows a changing depth file."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from experimance.async_client import AsyncClient
from experimance.cli import output_paths as naming
from experimance.cli.commands.generate import picture_json
from experimance.cli.console import err_console, is_interactive, result, result_json, warn
from experimance.cli.errors import describe_error, handle_errors, print_error
from experimance.cli.file_watcher import DepthFile
from experimance.cli.inputs import example, require_one
from experimance.cli.options import GenerationOptions, Service, expand_option_groups
from experimance.cli.progress import ProgressView, summary
from experimance.cli.terminal_image import Protocol, detect_protocol
from experimance.errors import (
    Conflict,
    ConnectionFailed,
    ExperimanceError,
    Internal,
    InvalidPicture,
    Overloaded,
    TimedOut,
    Unavailable,
)
from experimance.events import Done
from experimance.results import Picture

# A restarted service or a shorter queue resolves these errors.
_TRANSIENT = (ConnectionFailed, Internal, Overloaded, TimedOut, Unavailable)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 5.0
_DAMAGE_SECONDS = 3.0


@expand_option_groups
def watch(
    depth: Annotated[Path, typer.Argument(help="Depth file to watch.")],
    output: Annotated[
        Path,
        typer.Argument(help="Image file, replaced each time: .png, .jpg or .webp."),
    ],
    interval: Annotated[
        float,
        typer.Option(min=0.02, metavar="SECONDS", help="Interval between checks of the file."),
    ] = 0.2,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per image on stdout.")
    ] = False,
    preview: Annotated[bool, typer.Option(help="Show previews in the terminal.")] = True,
    *,
    generation: GenerationOptions,
    service: Service,
) -> None:
    """Generate a new image whenever a depth file changes, until Ctrl-C.

    A newer depth map cancels the request for the previous one. OUTPUT is replaced atomically, so
    that a viewer never reads a partial image. The seed stays the same, so that only the terrain
    changes.
    """
    output_format = naming.image_format(output.name)
    if output_format is None:
        raise typer.BadParameter(f"{output} does not end in .png, .jpg or .webp")
    if output.resolve() == depth.resolve():
        raise typer.BadParameter("the image would replace the depth file")
    require_one(generation.prompt, generation.era)
    fields = {
        "prompt": generation.prompt,
        "image": generation.photo,
        "seed": random.randrange(2**32),
        **generation.fields(),
        "output_format": output_format,
        "session": f"watch-{uuid.uuid4().hex}",
    }
    follower = _Follower(
        depth,
        output,
        fields,
        as_json,
        detect_protocol(err_console) if preview and is_interactive() else None,
    )
    with handle_errors():
        asyncio.run(follower.run(service, interval))


@dataclass
class _Follower:
    """Task that generates an image for each new content of a depth file."""

    depth: Path
    output: Path
    fields: dict[str, Any]
    as_json: bool
    protocol: Protocol | None
    _work: asyncio.Task[None] | None = field(default=None, init=False)

    async def run(self, service: Service, interval: float) -> None:
        """Follow the file until cancelled.

        Args:
            service: Address and limits of the service.
            interval: Seconds between checks of the file.

        Raises:
            ExperimanceError: A request failed for a reason that no other depth map resolves.
            OSError: A file cannot be read or written.
        """
        file = DepthFile(self.depth)
        err_console.print(f"watching {self.depth}; press Ctrl-C to stop", style="dim", markup=False)
        if not self.depth.exists():
            err_console.print("the file does not exist yet", style="dim")
        damaged_since: float | None = None
        async with service.async_client() as client:
            while True:
                content = await asyncio.to_thread(file.read_if_changed)
                if content is not None:
                    await self._cancel_current()
                    self._work = asyncio.create_task(self._generate(client, content))
                if not file.damaged:
                    damaged_since = None
                elif damaged_since is None:
                    damaged_since = time.monotonic()
                elif 0 < damaged_since < time.monotonic() - _DAMAGE_SECONDS:
                    warn(f"{self.depth}: not a complete image; waiting for the next one")
                    damaged_since = float("inf")
                await self._wait(interval)

    async def _wait(self, seconds: float) -> None:
        """Wait for one to two times `seconds`, and propagate a failure of the current request.

        Raises:
            ExperimanceError: The current request failed.
        """
        if self._work is None:
            await asyncio.sleep(seconds)
            return
        await asyncio.wait({self._work}, timeout=seconds)
        if self._work.done():
            work, self._work = self._work, None
            work.result()
            await asyncio.sleep(seconds)

    async def _cancel_current(self) -> None:
        """Cancel the request for an outdated depth map."""
        if self._work is not None:
            self._work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._work

    async def _generate(self, client: AsyncClient, depth: bytes) -> None:
        """Generate the image of one depth map, with retries for as long as the service is away.

        Raises:
            ExperimanceError: The request failed for a reason that no other depth map resolves.
        """
        pause, last_message = _FIRST_PAUSE, ""
        while True:
            try:
                self._write(await self._request(client, depth))
                return
            except InvalidPicture as error:
                print_error(error)
                return
            except Conflict as error:
                warn(f"{error}")
                return
            except _TRANSIENT as error:
                message, _ = describe_error(error)
                if message != last_message:
                    warn(f"{message}; retrying")
                last_message = message
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _request(self, client: AsyncClient, depth: bytes) -> Picture:
        if self.fields["prompt"] is None:
            catalog = await client.models()
            self.fields["prompt"] = example(catalog.era_prompts, self.fields["era"])
        with ProgressView(self.output.name, self.protocol) as view:
            async with contextlib.aclosing(client.stream(depth=depth, **self.fields)) as events:
                async for event in events:
                    view.show(event)
                    if isinstance(event, Done):
                        return event.picture
        raise ExperimanceError("the stream ended")

    def _write(self, picture: Picture) -> None:
        picture.save(self.output)
        for warning in picture.warnings:
            warn(warning)
        if self.as_json:
            result_json(picture_json(picture, self.output, self.depth))
            return
        result(f"{time.strftime('%H:%M:%S')} {self.output}")
        err_console.print(summary(picture))
