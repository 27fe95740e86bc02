"""Frame format between processes: two big-endian uint32 lengths, a JSON header, and blobs.

Messages of the runner and of the image decoders use these frames.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Iterator
from dataclasses import asdict, fields
from typing import Any, BinaryIO, TypeVar

from common.protocol import (
    CancelCommand,
    Cancelled,
    DepthResult,
    EstimateJob,
    GenerateJob,
    JobDone,
    JobFailed,
    LoadCommand,
    LoadResult,
    LoraWeight,
    Message,
    Queued,
    RunnerStatus,
    Started,
    Step,
)

_LENGTHS = struct.Struct(">II")

Frame = tuple[dict[str, Any], bytes]
"""Header and blob."""
M = TypeVar("M")
_KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        GenerateJob, Queued, Started, Step, JobDone, JobFailed, EstimateJob, DepthResult,
        CancelCommand, Cancelled, LoadCommand, LoadResult, RunnerStatus,
    )
}  # fmt: skip


def build_frame(header: dict[str, Any], *blobs: bytes) -> bytes:
    """Return one frame: lengths of the header and of all blobs, JSON header, blobs."""
    encoded = json.dumps(header).encode()
    return b"".join((_LENGTHS.pack(len(encoded), sum(map(len, blobs))), encoded, *blobs))


def read_frame(stream: BinaryIO) -> Frame | None:
    """Read the next frame of a stream; return None at its end."""
    lengths = stream.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    header, blob = _LENGTHS.unpack(lengths)
    return json.loads(stream.read(header)), stream.read(blob)


async def next_frame(stream: asyncio.StreamReader) -> Frame:
    """Read the next frame of a stream.

    Raises:
        IncompleteReadError: the stream has ended.
    """
    header, blob = _LENGTHS.unpack(await stream.readexactly(_LENGTHS.size))
    return json.loads(await stream.readexactly(header)), await stream.readexactly(blob)


def pack(message: Message) -> bytes:
    """Serialize a message to one frame."""
    header: dict[str, Any] = {"kind": type(message).__name__}
    blobs: list[bytes] = []
    for item in fields(message):
        value = getattr(message, item.name)
        if isinstance(value, bytes):
            header[item.name] = {"blob": [len(value)]}
            blobs.append(value)
        elif isinstance(value, tuple) and value and isinstance(value[0], bytes):
            header[item.name] = {"blobs": [len(blob) for blob in value]}
            blobs.extend(value)
        elif isinstance(value, tuple) and value and isinstance(value[0], LoraWeight):
            header[item.name] = [asdict(entry) for entry in value]
        else:
            header[item.name] = value
    return build_frame(header, *blobs)


def _unpack_body(header: dict[str, Any], body: memoryview) -> Message:
    kind = _KINDS[header.pop("kind")]
    offset = 0
    values: dict[str, Any] = {}
    for name, value in header.items():
        if name == "loras":
            values[name] = tuple(LoraWeight(**entry) for entry in value)
        elif isinstance(value, dict) and value.keys() <= {"blob", "blobs"} and value:
            (form, lengths), *_ = value.items()
            parts = []
            for length in lengths:
                parts.append(bytes(body[offset : offset + length]))
                offset += length
            values[name] = parts[0] if form == "blob" else tuple(parts)
        else:
            values[name] = tuple(value) if isinstance(value, list) else value
    message: Message = kind(**values)
    return message


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
        """Append a chunk; yield every message that is complete."""
        self._buffer += chunk
        while len(self._buffer) >= _LENGTHS.size:
            header_size, body_size = _LENGTHS.unpack_from(self._buffer)
            end = _LENGTHS.size + header_size + body_size
            if len(self._buffer) < end:
                return
            frame = bytes(self._buffer[:end])
            del self._buffer[:end]
            split = _LENGTHS.size + header_size
            yield _unpack_body(json.loads(frame[_LENGTHS.size : split]), memoryview(frame)[split:])
