"""Pool of image decoder processes with limits on time and memory."""

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

from api.errors import Internal, InvalidDepthMap, InvalidImage, InvalidRequest, Overloaded, TooLarge
from api.images.decoding import ORDINARY_WORK, DepthMap, RgbImage, check_beginning
from api.images.inspection import UnreadablePictureError
from common.framing import Frame, build_frame, next_frame

log = structlog.get_logger(__name__)

_ACCEPTED = "a base64 or data URL of a PNG, JPEG, WebP or TIFF is accepted"
_ROOT = Path(__file__).parents[2]
# Python needs these to start; the service's secrets stay out of the decoders.
_INHERITED = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL")
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_FIRST_GUESS, _NEWEST_SHARE = 0.05, 0.1
"""Moving average of the seconds per image: initial value, and weight of the newest sample."""

_PIECE = _READ_AHEAD = 2**20
_PATIENCE = 10
"""Wall-clock seconds allowed per second of processor time, because the machine may be busy."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a lane of decoders.

    Attributes:
        processes: images that are decoded at the same time.
        seconds: processor time per image.
        megabytes: memory that a process may allocate, in 1e6 bytes.
        niceness: nice value of the processes.
        max_work: pixels times scans of an image; None is no limit.
        max_characters: length of an image's base64; None is no limit.
    """

    processes: int
    seconds: float
    megabytes: int
    niceness: int
    max_work: int | None = None
    max_characters: int | None = None


ORDINARY = Limits(
    processes=2,
    seconds=2,
    megabytes=600,
    niceness=5,
    max_work=ORDINARY_WORK,
    max_characters=8 * 2**20,
)
# One at a time and at the lowest priority, so that large images delay neither depth maps nor, on a
# CPU, the images that are being generated.
LABORIOUS = Limits(processes=1, seconds=30, megabytes=2_000, niceness=19)


class _TooLaboriousError(Exception):
    """Image that exceeds the limits of a lane."""


class DecoderPool:
    """Pool of decoder processes, in an ordinary and a laborious lane.

    An image that exceeds the ordinary limits, by its length, by its header or while decoding, moves
    to the laborious lane. Cancelling the task that awaits an image ends its decoder.

    Args:
        most: maximum number of images that wait or are being decoded.
        ordinary: limits of the ordinary lane.
        laborious: limits of the laborious lane.
    """

    def __init__(
        self, most: int, ordinary: Limits = ORDINARY, laborious: Limits = LABORIOUS
    ) -> None:
        self._most = most
        self._waiting = 0
        self._seconds = _FIRST_GUESS
        self._lanes = _Lane(ordinary), _Lane(laborious)

    @property
    def waiting(self) -> int:
        """Number of images that wait or are being decoded."""
        return self._waiting

    async def decode_depth(
        self, text: str, width: int, height: int, *, invert: bool = False, normalize: bool = False
    ) -> DepthMap:
        """Decode a depth map in a process of the pool; see `decoding.decode_depth`.

        Args:
            text: base64, with or without a `data:` prefix.
            width: width of the result in pixels.
            height: height of the result in pixels.
            invert: whether to swap near and far.
            normalize: whether to stretch the values to the full range.

        Raises:
            InvalidDepthMap: the text is not base64 of an accepted format, or the file is damaged.
            TooLarge: the image has too many pixels or requires too much work.
            Overloaded: too many images are waiting.
            Internal: the decoder failed.
        """
        order = {"kind": "depth", "width": width, "height": height}
        order |= {"invert": invert, "normalize": normalize}
        fields, pixels = await self._decode(order, text, "depth_map_b64", InvalidDepthMap)
        return DepthMap(pixels, tuple(fields["warnings"]), fields["digest"])

    async def decode_image(self, text: str, width: int | None, height: int | None) -> RgbImage:
        """Decode a photograph in a process of the pool; see `decoding.decode_image`.

        Args:
            text: base64, with or without a `data:` prefix.
            width: width of the result in pixels; None keeps the proportions.
            height: height of the result in pixels; None keeps the proportions.

        Raises:
            InvalidImage: the text is not base64 of an accepted format, or the file is damaged.
            TooLarge: the image has too many pixels or requires too much work.
            Overloaded: too many images are waiting.
            Internal: the decoder failed.
        """
        order = {"kind": "image", "width": width, "height": height}
        fields, pixels = await self._decode(order, text, "image_b64", InvalidImage)
        return RgbImage(pixels, **fields)

    async def close(self) -> None:
        """End all decoder processes."""
        for lane in self._lanes:
            await lane.close()

    async def _decode(
        self, order: dict[str, Any], text: str, field: str, invalid: type[InvalidRequest]
    ) -> Frame:
        try:
            check_beginning(text)
        except UnreadablePictureError as error:
            raise invalid.for_field(field, f"{error}; {_ACCEPTED}") from None
        if self._waiting >= self._most:
            message = f"{self._waiting} images are waiting to be decoded"
            raise Overloaded(message, retry_after=self._waiting * self._seconds)
        self._waiting += 1
        started = time.monotonic()
        try:
            return await self._decode_in_lanes(order, text, field, invalid)
        finally:
            each = (time.monotonic() - started) / self._waiting
            self._seconds += _NEWEST_SHARE * (each - self._seconds)
            self._waiting -= 1

    async def _decode_in_lanes(
        self, order: dict[str, Any], text: str, field: str, invalid: type[InvalidRequest]
    ) -> Frame:
        for lane in self._lanes:
            if not lane.takes(text):
                continue
            try:
                header, pixels = await lane.decode(order, text)
            except _TooLaboriousError:
                continue
            except _CrashError:
                header = {"error": "unreadable", "message": "the image is damaged"}
            if header.get("error") == "unreadable":
                raise invalid.for_field(field, f"{header['message']}; {_ACCEPTED}")
            if header.get("error") == "too_large":
                raise TooLarge(f"{field}: {header['message']}")
            return header, pixels
        raise TooLarge(f"{field}: decoding the image takes more time or memory than allowed")


class _CrashError(Exception):
    """Decoder process that an image crashed."""


class _Lane:
    """Decoders with the same limits; each decodes one image at a time, first in, first out."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._places = asyncio.Semaphore(limits.processes)
        self._idle = [_Decoder(limits) for _ in range(limits.processes)]
        self._busy: set[_Decoder] = set()

    def takes(self, text: str) -> bool:
        """Return whether an image's base64 is short enough for the lane."""
        longest = self._limits.max_characters
        return longest is None or len(text) <= longest

    async def decode(self, order: dict[str, Any], text: str) -> Frame:
        """Return the outcome of an order.

        Raises:
            _TooLaboriousError: the image exceeds the limits.
            _CrashError: the image crashed the decoder.
            Internal: the decoder failed.
        """
        limits = self._limits
        async with self._places:
            decoder = self._idle.pop()
            if not decoder.is_alive:
                decoder = _Decoder(limits)
            self._busy.add(decoder)
            try:
                async with asyncio.timeout(limits.seconds * _PATIENCE):
                    outcome = await decoder.request({**order, "max_work": limits.max_work}, text)
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                raise await decoder.wait_for_error() from None
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
        """End all decoder processes."""
        for decoder in (*self._idle, *self._busy):
            await decoder.close()


class _Decoder:
    """Decoder process and its socket."""

    def __init__(self, limits: Limits) -> None:
        self.is_free = True
        self._socket, child_socket = socket.socketpair()
        arguments = (limits.seconds, limits.megabytes, limits.niceness)
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        with child_socket:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "api.images.decoder_process", *map(str, arguments)],
                stdin=child_socket.fileno(),
                stdout=child_socket.fileno(),
                cwd=_ROOT,
                env=environment | _ONE_THREAD,
                # Signals of the service's terminal, such as Ctrl-C, must not reach the process,
                # and Linux groups priorities by session.
                start_new_session=True,
            )
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @property
    def is_alive(self) -> bool:
        """Whether the process is running."""
        return self._process.poll() is None

    async def request(self, order: dict[str, Any], text: str) -> Frame:
        """Return the outcome of an order; kill the process if the exchange does not complete.

        Raises:
            OSError: the process has ended.
            IncompleteReadError: the process has ended.
        """
        self.is_free = False
        try:
            if self._streams is None:
                self._streams = await asyncio.open_unix_connection(
                    sock=self._socket, limit=_READ_AHEAD
                )
            reader, writer = self._streams
            # In pieces, so that an image of up to 31 MB does not block the event loop.
            frame = memoryview(await asyncio.to_thread(_frame_of_text, order, text))
            for start in range(0, len(frame), _PIECE):
                writer.write(frame[start : start + _PIECE])
                await writer.drain()
            outcome = await next_frame(reader)
            self.is_free = True
            return outcome
        except BaseException:
            # After a cancellation, for example, nobody reads the remaining output.
            self._kill()
            # A cancelled task must not wait, and a process that nobody waits for stays a zombie.
            asyncio.get_running_loop().run_in_executor(None, self._process.wait)
            raise

    async def wait_for_error(self) -> Exception:
        """Wait for the process to end and return the reason as an error."""
        code = await asyncio.to_thread(self._process.wait)
        if code in (-signal.SIGPROF, -signal.SIGKILL):
            return _TooLaboriousError()
        log.error("decoder ended", status=code)
        # A negative status is a crash by a signal, which the image caused.
        return _CrashError() if code < 0 else Internal()

    async def close(self) -> None:
        """Kill the process and wait for its end."""
        self._kill()
        await asyncio.to_thread(self._process.wait)

    def _kill(self) -> None:
        self._process.kill()
        if self._streams is None:
            self._socket.close()
        else:
            self._streams[1].close()


def _frame_of_text(order: dict[str, Any], text: str) -> bytes:
    # Non-ASCII characters become "?", which is not base64 either.
    return build_frame(order, text.encode("ascii", "replace"))
