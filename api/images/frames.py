"""What passes between the service and its decoders: a header of JSON and a blob behind it."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any, BinaryIO

_LENGTHS = struct.Struct(">II")

Frame = tuple[dict[str, Any], bytes]
"""Header and blob."""


def frame_of(header: dict[str, Any], blob: bytes) -> bytes:
    """Both as one frame: their lengths, big-endian uint32, then they themselves."""
    encoded = json.dumps(header).encode()
    return b"".join((_LENGTHS.pack(len(encoded), len(blob)), encoded, blob))


def read_frame(stream: BinaryIO) -> Frame | None:
    """The next frame of a stream; None at its end."""
    lengths = stream.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    header, blob = _LENGTHS.unpack(lengths)
    return json.loads(stream.read(header)), stream.read(blob)


async def next_frame(stream: asyncio.StreamReader) -> Frame:
    """The next frame of a stream; raises IncompleteReadError at its end."""
    header, blob = _LENGTHS.unpack(await stream.readexactly(_LENGTHS.size))
    return json.loads(await stream.readexactly(header)), await stream.readexactly(blob)
