"""Decoders of pictures: processes with limits, of which none outlives the caller it works for."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

import api
from api.errors import Internal, InvalidDepthMap, InvalidImage, InvalidRequest, Overloaded, TooLarge
from api.images.decoding import ORDINARY_WORK, DepthMap, Photograph, check_beginning
from api.images.frames import Frame, frame_of, next_frame
from api.images.inspection import UnreadablePictureError

log = structlog.get_logger(__name__)

_ACCEPTED = "a base64 or data URL of a PNG, JPEG, WebP or TIFF is accepted"
_ROOT = Path(api.__file__).parents[1]
# What a Python needs to start, and nothing that the service was told in confidence.
_INHERITED = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL")
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_FIRST_GUESS, _NEWEST_SHARE = 0.05, 0.1
"""Of the seconds from one decoded picture to the next: the first, and how fast it follows."""

_PIECE = _READ_AHEAD = 2**20
_PATIENCE = 10
"""Seconds on the clock for each second that a decoder may work, when the machine is busy."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What decoding one picture may take, and how many are decoded at once."""

    processes: int
    seconds: float
    megabytes: int
    niceness: int
    max_work: int | None


ORDINARY = Limits(processes=2, seconds=2, megabytes=600, niceness=5, max_work=ORDINARY_WORK)
# One at a time and after everything else, so that somebody's poster holds up nobody's sand.
LABORIOUS = Limits(processes=1, seconds=30, megabytes=2_000, niceness=19, max_work=None)


class _TooLaboriousError(Exception):
    """A picture that a lane's limits do not allow to be decoded there."""


class DecoderPool:
    """Decodes pictures in processes of their own.

    A picture that turns out to be laborious, by its header or by what it takes, is decoded by a
    process kept for such ones. Cancelling the task that waits for a picture ends its decoder.
    """

    def __init__(
        self, most: int, ordinary: Limits = ORDINARY, laborious: Limits = LABORIOUS
    ) -> None:
        """Start the processes; `most` pictures may wait or be under way at once."""
        self._most = most
        self._waiting = 0
        self._seconds = _FIRST_GUESS
        self._lanes = _Lane(ordinary), _Lane(laborious)

    @property
    def waiting(self) -> int:
        """Pictures that wait to be decoded, or are being decoded."""
        return self._waiting

    async def decode_depth(
        self, text: str, width: int, height: int, *, invert: bool = False, normalize: bool = False
    ) -> DepthMap:
        """As `decoding.decode_depth`.

        Raises:
            InvalidDepthMap: not base64, not a picture of an accepted format, damaged.
            TooLarge: more pixels, or more work, than is accepted.
            Overloaded: too many pictures wait.
        """
        order = {"kind": "depth", "width": width, "height": height}
        order |= {"invert": invert, "normalize": normalize}
        fields, pixels = await self._decoded(order, text, "depth_map_b64", InvalidDepthMap)
        return DepthMap(pixels, tuple(fields["warnings"]), fields["digest"])

    async def decode_image(self, text: str, width: int | None, height: int | None) -> Photograph:
        """As `decoding.decode_image`.

        Raises:
            InvalidImage: not base64, not a picture of an accepted format, damaged.
            TooLarge: more pixels, or more work, than is accepted.
            Overloaded: too many pictures wait.
        """
        order = {"kind": "image", "width": width, "height": height}
        fields, pixels = await self._decoded(order, text, "image_b64", InvalidImage)
        return Photograph(pixels, **fields)

    async def close(self) -> None:
        """End every decoder."""
        for lane in self._lanes:
            await lane.close()

    async def _decoded(
        self, order: dict[str, Any], text: str, field: str, invalid: type[InvalidRequest]
    ) -> Frame:
        try:
            check_beginning(text)
        except UnreadablePictureError as error:
            raise invalid.field(field, f"{error}; {_ACCEPTED}") from None
        if self._waiting >= self._most:
            message = f"{self._waiting} pictures wait to be decoded"
            raise Overloaded(message, retry_after=self._waiting * self._seconds)
        self._waiting += 1
        started = time.monotonic()
        try:
            return await self._outcome(order, text, field, invalid)
        finally:
            each = (time.monotonic() - started) / self._waiting
            self._seconds += _NEWEST_SHARE * (each - self._seconds)
            self._waiting -= 1

    async def _outcome(
        self, order: dict[str, Any], text: str, field: str, invalid: type[InvalidRequest]
    ) -> Frame:
        for lane in self._lanes:
            try:
                header, pixels = await lane.decode(order, text)
            except _TooLaboriousError:
                continue
            except _CrashError:
                header = {"error": "unreadable", "message": "the picture is damaged"}
            if header.get("error") == "unreadable":
                raise invalid.field(field, f"{header['message']}; {_ACCEPTED}")
            if header.get("error") == "too_large":
                raise TooLarge(f"{field}: {header['message']}")
            return header, pixels
        raise TooLarge(f"{field}: the picture takes more time or memory to decode than it may")


class _CrashError(Exception):
    """A decoder that a picture has brought down."""


class _Lane:
    """Decoders of one kind, each with one picture at a time, in the order in which they come."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._places = asyncio.Semaphore(limits.processes)
        self._idle = [_Decoder(limits) for _ in range(limits.processes)]
        self._busy: set[_Decoder] = set()

    async def decode(self, order: dict[str, Any], text: str) -> Frame:
        """An order's outcome; raises _TooLaboriousError where the limits do not suffice."""
        limits = self._limits
        async with self._places:
            decoder = self._idle.pop()
            if not decoder.is_alive:
                decoder = _Decoder(limits)
            self._busy.add(decoder)
            try:
                async with asyncio.timeout(limits.seconds * _PATIENCE):
                    outcome = await decoder.ask({**order, "max_work": limits.max_work}, text)
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                raise await decoder.ending() from None
            finally:
                self._busy.remove(decoder)
                self._idle.append(decoder if decoder.is_free else _Decoder(limits))
        problem = outcome[0].get("error")
        if problem == "laborious":
            raise _TooLaboriousError
        if problem == "fault":
            log.error("decoder failed", trace=outcome[0]["message"])
            raise Internal
        return outcome

    async def close(self) -> None:
        """End every decoder."""
        for decoder in (*self._idle, *self._busy):
            await decoder.close()


class _Decoder:
    """One process and the socket to it."""

    def __init__(self, limits: Limits) -> None:
        self.is_free = True
        self._socket, theirs = socket.socketpair()
        arguments = (limits.seconds, limits.megabytes, limits.niceness)
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "api.images.decoder_process", *map(str, arguments)],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                cwd=_ROOT,
                env=environment | _ONE_THREAD,
                # What a terminal sends to the service's group, Ctrl-C above all, is not for it,
                # and its priority is told by session.
                start_new_session=True,
            )
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @property
    def is_alive(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    async def ask(self, order: dict[str, Any], text: str) -> Frame:
        """An order's outcome; a decoder that was not heard out is killed.

        Raises:
            OSError, IncompleteReadError: it has ended.
        """
        self.is_free = False
        try:
            if self._streams is None:
                self._streams = await asyncio.open_unix_connection(
                    sock=self._socket, limit=_READ_AHEAD
                )
            reader, writer = self._streams
            # In pieces, between which the loop has its turn: a picture may have 31 MB.
            frame = memoryview(await asyncio.to_thread(_frame_of_text, order, text))
            for start in range(0, len(frame), _PIECE):
                writer.write(frame[start : start + _PIECE])
                await writer.drain()
            outcome = await next_frame(reader)
            self.is_free = True
            return outcome
        except BaseException:
            # Cancelled, for example: what it would still say is for nobody.
            self._kill()
            raise

    async def ending(self) -> Exception:
        """Why it has ended, as an error."""
        code = await asyncio.to_thread(self._process.wait)
        if code in (-signal.SIGPROF, -signal.SIGKILL):
            return _TooLaboriousError()
        log.error("decoder ended", status=code)
        # A library that a picture brings down has told all that it will ever tell of it.
        return _CrashError() if code < 0 else Internal()

    async def close(self) -> None:
        """End it, and wait until it has."""
        self._kill()
        await asyncio.to_thread(self._process.wait)

    def _kill(self) -> None:
        self._process.kill()
        if self._streams is None:
            self._socket.close()
        else:
            self._streams[1].close()


def _frame_of_text(order: dict[str, Any], text: str) -> bytes:
    # What is not ASCII becomes something else that is not base64.
    return frame_of(order, text.encode("ascii", "replace"))
