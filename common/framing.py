"""Frame format between processes: a big-endian uint32 length, then MessagePack.

Messages of the runner and of the image decoders use these frames. MessagePack holds bytes as they
are, and msgspec checks every decoded message against the types of `common.protocol`.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO, TypeVar

import msgspec

from common.protocol import Message

_LENGTH = struct.Struct(">I")

Frame = tuple[dict[str, Any], bytes]
"""Header and blob."""
M = TypeVar("M")
_MESSAGES = msgspec.msgpack.Decoder(Message)
_FRAMES = msgspec.msgpack.Decoder(Frame)


def build_frame(header: dict[str, Any], blob: bytes = b"") -> bytes:
    """Return one frame of a header with MessagePack's types and a blob."""
    return _encode((header, blob))


def read_frame(stream: BinaryIO) -> Frame | None:
    """Read the next frame of a stream; return None at its end."""
    length = stream.read(_LENGTH.size)
    if len(length) < _LENGTH.size:
        return None
    return _FRAMES.decode(stream.read(*_LENGTH.unpack(length)))


async def next_frame(stream: asyncio.StreamReader) -> Frame:
    """Read the next frame of a stream.

    Raises:
        IncompleteReadError: the stream has ended.
    """
    length = await stream.readexactly(_LENGTH.size)
    return _FRAMES.decode(await stream.readexactly(*_LENGTH.unpack(length)))


def pack(message: Message) -> bytes:
    """Serialize a message to one frame."""
    return _encode(message)


def unpack(frame: bytes, kind: type[M]) -> M:
    """Return the message of one complete frame.

    Raises:
        ValueError: the bytes are not exactly one frame with a message of `kind`.
    """
    messages = list(Unpacker().feed(frame))
    if len(messages) != 1 or not isinstance(messages[0], kind):
        raise ValueError(f"expected one frame with a {kind.__name__}")
    return messages[0]


class Unpacker:
    """Incremental decoder of messages from chunks of any size."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> Iterator[Message]:
        """Append a chunk; yield every message that is complete.

        Raises:
            msgspec.DecodeError: the bytes are not a message.
        """
        self._buffer += chunk
        while len(self._buffer) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._buffer)[0]
            if len(self._buffer) < end:
                return
            content = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield _MESSAGES.decode(content)


def _encode(content: object) -> bytes:
    buffer = bytearray(_LENGTH.size)
    msgspec.msgpack.Encoder().encode_into(content, buffer, _LENGTH.size)
    _LENGTH.pack_into(buffer, 0, len(buffer) - _LENGTH.size)
    return bytes(buffer)
