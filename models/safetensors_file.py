"""The safetensors format: a strict reader of headers, and a writer of canonical files.

Neither maps a file nor holds more than one piece of a tensor in memory.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Shape = tuple[int, ...]
Advance = Callable[[int], None]

ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
ALIGNMENT = 64
"""Bytes: what vector instructions and torch's allocator align to."""

_LENGTH = struct.Struct("<Q")
_MOST_HEADER_BYTES = 32 * 2**20
_METADATA = "__metadata__"
_MOST_TENSORS = 2**16
# What a header of so many tensors has of each at most, with a share for the metadata's texts.
_MOST_SIGNS = {b"{": 4 * _MOST_TENSORS, b"[": 4 * _MOST_TENSORS, b'"': 2**20, b",": 2**20}
_MOST_DIMENSIONS = 8

# What else is found under the name of a safetensors file, by its first bytes.
_IMPOSTORS = (
    (b"PK\x03\x04", "a zip archive, such as torch.save writes: a pickle"),
    (b"\x80\x02", "a pickle"),
    (b"\x80\x03", "a pickle"),
    (b"\x80\x04", "a pickle"),
    (b"\x80\x05", "a pickle"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a rar archive"),
    (b"GGUF", "a GGUF file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"version https://git-lfs", "a git-lfs pointer: the file itself was never fetched"),
    (b"<", "a web page or XML answer"),
    (b"{", "JSON text"),
)


class WeightsError(ValueError):
    """A weight file that cannot be used; the message names the file, never its path."""


@dataclass(frozen=True, slots=True)
class TensorSpan:
    """Where a tensor lies: its dtype as the format spells it, and its bytes from the file's start.

    `dtype` is a key of ITEM_BYTES, `start` and `size` are bytes.
    """

    dtype: str
    shape: Shape
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class NewTensor:
    """A tensor to be written: `pieces` makes its little-endian bytes anew, row-major, in order."""

    dtype: str
    shape: Shape
    pieces: Callable[[], Iterable[bytes | bytearray | memoryview]]

    @property
    def size(self) -> int:
        """Bytes of all pieces together."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


def read_header(path: Path) -> Mapping[str, TensorSpan]:
    """The tensors of a safetensors file, in the order in which they lie there.

    Raises:
        WeightsError: not a safetensors file (and what it looks like instead), truncated, or a
            header whose tensors do not fill the file exactly.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        actual = os.fstat(file.fileno()).st_size
        start = file.read(_LENGTH.size)
        if actual < _LENGTH.size:
            raise WeightsError(f"{path.name}: {'empty' if not actual else 'truncated'}")
        length = _LENGTH.unpack(start)[0]
        if not 2 <= length <= _MOST_HEADER_BYTES:
            raise WeightsError(f"{path.name}: {_impostor(start + file.read(64))}")
        if _LENGTH.size + length > actual:
            impostor = _impostor(start)
            known = "looks like" in impostor
            raise WeightsError(f"{path.name}: {impostor if known else 'truncated in its header'}")
        header = _parse(path.name, file.read(length))
    return _spans(path.name, header, _LENGTH.size + length, actual)


def write_file(
    path: Path, tensors: Mapping[str, NewTensor], advance: Advance | None = None
) -> None:
    """Write a safetensors file whose bytes depend on nothing but the tensors.

    Data starts at a multiple of 64 bytes, and tensors whose size is one come first, by name: so
    these are aligned wherever the file is mapped. The file appears under its name when complete.

    Args:
        path: replaced if it exists.
        tensors: by name.
        advance: called with the number of bytes of each piece written.

    Raises:
        WeightsError: a tensor's pieces do not add up to its size.
        OSError: the disk refuses.
    """
    order = sorted(tensors, key=lambda name: (tensors[name].size % ALIGNMENT != 0, name))
    header: dict[str, Any] = {_METADATA: {"format": "pt"}}
    ends = itertools.accumulate(tensors[name].size for name in order)
    for name, end in zip(order, ends, strict=True):
        tensor = tensors[name]
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [end - tensor.size, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(_LENGTH.size + len(text)) % ALIGNMENT)
    unfinished = path.with_name(f".{path.name}.part")
    try:
        with unfinished.open("wb", buffering=0) as file:
            _write(file, _LENGTH.pack(len(text)) + text)
            for name in order:
                written = 0
                for piece in tensors[name].pieces():
                    written += _write(file, piece)
                    if advance is not None:
                        advance(len(piece))
                if written != tensors[name].size:
                    raise WeightsError(f"{path.name}: {name} has {written} bytes of its size")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_pieces(
    file: Any, path: Path, start: int, size: int, piece_bytes: int
) -> Iterator[memoryview]:
    """A byte range of an open binary file in pieces; each is overwritten by the next.

    Raises:
        WeightsError: the file ends before the range does.
    """
    buffer = memoryview(bytearray(min(piece_bytes, size)))
    while size:
        piece = buffer[: min(len(buffer), size)]
        if os.preadv(file.fileno(), [piece], start) != len(piece):
            raise WeightsError(f"{path.name}: truncated while it was read")
        yield piece
        start += len(piece)
        size -= len(piece)


def _write(file: Any, content: bytes | bytearray | memoryview) -> int:
    """All of it: a raw file may take less than it is given."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]
    return len(content)


def _impostor(start: bytes) -> str:
    for magic, what in _IMPOSTORS:
        if start.startswith(magic):
            return f"not a safetensors file; looks like {what}"
    return "not a safetensors file"


def _parse(name: str, text: bytes) -> dict[str, Any]:
    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise WeightsError(f"{name}: its header names a tensor twice")
        return made

    # A parser takes ten seconds for 32 MB of brackets; SDXL has 2,500 tensors.
    if any(text.count(sign) > most for sign, most in _MOST_SIGNS.items()):
        raise WeightsError(f"{name}: its header has more than {_MOST_TENSORS} tensors")
    try:
        header = json.loads(text, object_pairs_hook=distinct)
    except (ValueError, RecursionError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{name}: {_impostor(text)} (its header is not JSON)") from error
    if not isinstance(header, dict):
        raise WeightsError(f"{name}: not a safetensors file (its header is not an object)")
    return header


def _spans(name: str, header: dict[str, Any], base: int, actual: int) -> dict[str, TensorSpan]:
    spans = {}
    for tensor, entry in header.items():
        if tensor != _METADATA:
            spans[tensor] = _span(name, tensor, entry, base)
    ordered = dict(sorted(spans.items(), key=lambda item: (item[1].start, item[1].size)))
    end = base
    for tensor, span in ordered.items():
        if span.start != end:
            raise WeightsError(f"{name}: {tensor} does not start where the tensor before it ends")
        end += span.size
    if actual < end:
        raise WeightsError(f"{name}: truncated, {actual} of {end} bytes are there")
    if actual > end:
        raise WeightsError(f"{name}: {actual - end} bytes more than its header lists")
    return ordered


def _span(name: str, tensor: str, entry: Any, base: int) -> TensorSpan:
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{name}: {tensor} is not described as the format demands") from error
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise WeightsError(f"{name}: {tensor} has the unknown dtype {dtype!r}")
    if not isinstance(shape, list) or len(shape) > _MOST_DIMENSIONS:
        raise WeightsError(f"{name}: {tensor} has no valid shape")
    numbers = [*shape, start, end]
    if any(type(number) is not int or not 0 <= number < 2**48 for number in numbers):
        raise WeightsError(f"{name}: {tensor} has numbers that cannot be")
    if end - start != math.prod(shape) * ITEM_BYTES[dtype]:
        raise WeightsError(f"{name}: {tensor} has a size that does not match its shape")
    return TensorSpan(dtype, tuple(shape), base + start, end - start)
