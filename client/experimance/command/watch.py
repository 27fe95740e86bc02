"""experimance watch: a picture that follows a depth file, the installation in miniature."""

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
from experimance.command import naming
from experimance.command.console import is_screen, people, result, result_json, warn
from experimance.command.depth_file import DepthFile
from experimance.command.failures import explained, say, told
from experimance.command.following import Screen, summary
from experimance.command.generate import told_of
from experimance.command.grouped import grouped
from experimance.command.painting_options import Painting
from experimance.command.prompts import example, require_one
from experimance.command.service_options import Service
from experimance.command.terminal_picture import Protocol, protocol_of
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
from experimance.picture import Picture

# A service that is started again, or a queue that empties, needs no one to come back for it.
_PASSING = (ConnectionFailed, Internal, Overloaded, TimedOut, Unavailable)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 5.0
_DAMAGE_SECONDS = 3.0


@grouped
def watch(
    depth: Annotated[Path, typer.Argument(help="The depth file that is watched.")],
    output: Annotated[
        Path,
        typer.Argument(help="The picture, written anew each time: .png, .jpg or .webp."),
    ],
    interval: Annotated[
        float, typer.Option(min=0.02, metavar="SECONDS", help="Between looks at the file.")
    ] = 0.2,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per picture on stdout.")
    ] = False,
    preview: Annotated[bool, typer.Option(help="Show previews in the terminal.")] = True,
    *,
    painting: Painting,
    service: Service,
) -> None:
    """Paint again whenever a depth file changes, until Ctrl-C.

    A newer depth map ends the work on the one before. OUTPUT is replaced at one stroke, so that
    who shows it never sees half a picture. The seed stays the same, so that only the ground
    changes.
    """
    output_format = naming.format_of(output.name)
    if output_format is None:
        raise typer.BadParameter(f"{output} ends neither as .png, .jpg nor .webp")
    if output.resolve() == depth.resolve():
        raise typer.BadParameter("the picture would replace the depth file")
    require_one(painting.prompt, painting.era)
    fields = {
        "prompt": painting.prompt,
        "image": painting.photo,
        "seed": random.randrange(2**32),
        **painting.fields(),
        "output_format": output_format,
        "session": f"watch-{uuid.uuid4().hex}",
    }
    follower = _Follower(
        depth, output, fields, as_json, protocol_of(people) if preview and is_screen() else None
    )
    with told():
        asyncio.run(follower.run(service, interval))


@dataclass
class _Follower:
    """Paints what lies in a file, as often as it changes."""

    depth: Path
    output: Path
    fields: dict[str, Any]
    as_json: bool
    protocol: Protocol | None
    _work: asyncio.Task[None] | None = field(default=None, init=False)

    async def run(self, service: Service, interval: float) -> None:
        """Follow the file until cancelled; raises what no other depth map would mend."""
        file = DepthFile(self.depth)
        people.print(f"watching {self.depth}; Ctrl-C ends it", style="dim", markup=False)
        if not self.depth.exists():
            people.print("it is not there yet", style="dim")
        damaged_since: float | None = None
        async with service.async_client() as client:
            while True:
                content = await asyncio.to_thread(file.changed)
                if content is not None:
                    await self._end()
                    self._work = asyncio.create_task(self._paint(client, content))
                if not file.damaged:
                    damaged_since = None
                elif damaged_since is None:
                    damaged_since = time.monotonic()
                elif 0 < damaged_since < time.monotonic() - _DAMAGE_SECONDS:
                    warn(f"{self.depth}: not a whole picture; waiting for the next")
                    damaged_since = float("inf")
                await self._rest(interval)

    async def _rest(self, seconds: float) -> None:
        """Wait; raises what ended the work for good."""
        if self._work is None:
            await asyncio.sleep(seconds)
            return
        await asyncio.wait({self._work}, timeout=seconds)
        if self._work.done():
            work, self._work = self._work, None
            work.result()
            await asyncio.sleep(seconds)

    async def _end(self) -> None:
        """End the work on a depth map that is no longer the newest."""
        if self._work is not None:
            self._work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._work

    async def _paint(self, client: AsyncClient, depth: bytes) -> None:
        """Paint one depth map, however long the service is away."""
        pause, last = _FIRST_PAUSE, ""
        while True:
            try:
                self._write(await self._asked(client, depth))
                return
            except InvalidPicture as error:
                say(error)
                return
            except Conflict as error:
                warn(f"{error}")
                return
            except _PASSING as error:
                message, _ = explained(error)
                if message != last:
                    warn(f"{message}; trying on")
                last = message
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _asked(self, client: AsyncClient, depth: bytes) -> Picture:
        if self.fields["prompt"] is None:
            known = await client.models()
            self.fields["prompt"] = example(known.era_prompts, self.fields["era"])
        with Screen(self.output.name, self.protocol) as screen:
            async with contextlib.aclosing(client.stream(depth=depth, **self.fields)) as events:
                async for event in events:
                    screen.show(event)
                    if isinstance(event, Done):
                        return event.picture
        raise ExperimanceError("the stream ended")

    def _write(self, picture: Picture) -> None:
        picture.save(self.output)
        for warning in picture.warnings:
            warn(warning)
        if self.as_json:
            result_json(told_of(picture, self.output, self.depth))
            return
        result(f"{time.strftime('%H:%M:%S')} {self.output}")
        people.print(summary(picture))
