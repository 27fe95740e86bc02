"""Strict reader of safetensors headers, and writer of canonical safetensors files.

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
OnBytes = Callable[[int], None]

ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
ALIGNMENT = 64
"""Alignment in bytes of vector instructions and torch's allocator."""

_LENGTH = struct.Struct("<Q")
_MAX_HEADER_BYTES = 32 * 2**20
_METADATA = "__metadata__"
_MAX_TENSORS = 2**16
# Limits per character for a header of that many tensors, with a margin for the metadata.
_MAX_CHARACTERS = {b"{": 4 * _MAX_TENSORS, b"[": 4 * _MAX_TENSORS, b'"': 2**20, b",": 2**20}
_MAX_DIMENSIONS = 8

# Other formats that occur under a .safetensors name.
MAGIC_NUMBERS = (
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
    """Unusable weight file; the message has the file's name, never its path."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Location of a tensor in a file.

    `dtype` is a key of ITEM_BYTES. `start` is the byte offset from the start of the file, `size`
    the number of bytes.
    """

    dtype: str
    shape: Shape
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class TensorToWrite:
    """A tensor to write; each call of `pieces` yields its bytes: little-endian, row-major."""

    dtype: str
    shape: Shape
    pieces: Callable[[], Iterable[bytes | bytearray | memoryview]]

    @property
    def size(self) -> int:
        """Total number of bytes."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


def read_header(path: Path) -> Mapping[str, TensorEntry]:
    """Return the tensors of a safetensors file, in file order.

    Raises:
        WeightsError: The file has another format, is truncated, or its tensors do not fill it
            exactly. The message names a recognised other format.
        OSError: The file cannot be read.
    """
    header, base, actual = _read_json(path)
    return _parse_entries(path.name, header, base, actual)


def read_metadata(path: Path) -> dict[str, str]:
    """Return the texts of a safetensors file's `__metadata__`; empty without any.

    Raises:
        WeightsError: The file has another format, or is truncated in its header.
        OSError: The file cannot be read.
    """
    content = _read_json(path)[0].get(_METADATA)
    if not isinstance(content, dict):
        return {}
    return {key: value for key, value in content.items() if isinstance(value, str)}


def write_file(
    path: Path, tensors: Mapping[str, TensorToWrite], advance: OnBytes | None = None
) -> None:
    """Write a safetensors file deterministically and atomically.

    Data starts at a multiple of 64 bytes. Tensors whose size is such a multiple come first, by
    name, so that they are aligned in a mapped file.

    Args:
        path: Path of the result; an existing file is replaced.
        tensors: Tensors by name.
        advance: Function called with the number of bytes of each piece written.

    Raises:
        WeightsError: A tensor's pieces do not add up to its size.
        OSError: The file cannot be written.
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
    partial = path.with_name(f".{path.name}.part")
    try:
        with partial.open("wb", buffering=0) as file:
            _write(file, _LENGTH.pack(len(text)) + text)
            for name in order:
                written = 0
                for piece in tensors[name].pieces():
                    written += _write(file, piece)
                    if advance is not None:
                        advance(len(piece))
                if written != tensors[name].size:
                    raise WeightsError(
                        f"{path.name}: {name} has {written} bytes instead of {tensors[name].size}"
                    )
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_pieces(
    file: Any, path: Path, start: int, size: int, piece_bytes: int
) -> Iterator[memoryview]:
    """Yield a byte range of a file in pieces; each piece overwrites the previous one.

    Args:
        file: Binary file, open for reading.
        path: Path of the file, for the error message.
        start: Byte offset of the range.
        size: Bytes of the range.
        piece_bytes: Maximum bytes of a piece.

    Yields:
        One piece, valid until the next.

    Raises:
        WeightsError: The file ends before the range.
    """
    buffer = memoryview(bytearray(min(piece_bytes, size)))
    while size:
        piece = buffer[: min(len(buffer), size)]
        if os.preadv(file.fileno(), [piece], start) != len(piece):
            raise WeightsError(f"{path.name}: truncated while it was read")
        yield piece
        start += len(piece)
        size -= len(piece)


def _read_json(path: Path) -> tuple[dict[str, Any], int, int]:
    """Return a file's header, the offset of its first tensor, and the file's size in bytes."""
    with path.open("rb") as file:
        actual = os.fstat(file.fileno()).st_size
        start = file.read(_LENGTH.size)
        if actual < _LENGTH.size:
            raise WeightsError(f"{path.name}: {'empty' if not actual else 'truncated'}")
        length = _LENGTH.unpack(start)[0]
        if not 2 <= length <= _MAX_HEADER_BYTES:
            raise WeightsError(f"{path.name}: {_describe_format(start + file.read(64))}")
        if _LENGTH.size + length > actual:
            reason = _describe_format(start)
            is_known = "looks like" in reason
            raise WeightsError(f"{path.name}: {reason if is_known else 'truncated in its header'}")
        return _parse(path.name, file.read(length)), _LENGTH.size + length, actual


def _write(file: Any, content: bytes | bytearray | memoryview) -> int:
    """Write all bytes and return their number; a raw file may write fewer per call."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]
    return len(content)


def _describe_format(start: bytes) -> str:
    for magic, description in MAGIC_NUMBERS:
        if start.startswith(magic):
            return f"not a safetensors file; looks like {description}"
    return "not a safetensors file"


def _parse(name: str, text: bytes) -> dict[str, Any]:
    def reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        unique = dict(pairs)
        if len(unique) != len(pairs):
            raise WeightsError(f"{name}: its header names a tensor twice")
        return unique

    # json.loads takes 10 s for 32 MB of brackets; SDXL has 2,500 tensors.
    if any(text.count(character) > limit for character, limit in _MAX_CHARACTERS.items()):
        raise WeightsError(f"{name}: its header has more than {_MAX_TENSORS} tensors")
    try:
        header = json.loads(text, object_pairs_hook=reject_duplicates)
    except (ValueError, RecursionError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{name}: {_describe_format(text)} (its header is not JSON)") from error
    if not isinstance(header, dict):
        raise WeightsError(f"{name}: not a safetensors file (its header is not an object)")
    return header


def _parse_entries(
    name: str, header: dict[str, Any], base: int, actual: int
) -> dict[str, TensorEntry]:
    entries = {}
    for tensor, entry in header.items():
        if tensor != _METADATA:
            entries[tensor] = _parse_entry(name, tensor, entry, base)
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].size)))
    end = base
    for tensor, located in ordered.items():
        if located.start != end:
            raise WeightsError(f"{name}: {tensor} does not start where the tensor before it ends")
        end += located.size
    if actual < end:
        raise WeightsError(f"{name}: truncated, {actual} of {end} bytes are present")
    if actual > end:
        raise WeightsError(f"{name}: {actual - end} bytes more than its header lists")
    return ordered


def _parse_entry(name: str, tensor: str, entry: Any, base: int) -> TensorEntry:
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{name}: {tensor} has an invalid description") from error
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise WeightsError(f"{name}: {tensor} has the unknown dtype {dtype!r}")
    if not isinstance(shape, list) or len(shape) > _MAX_DIMENSIONS:
        raise WeightsError(f"{name}: {tensor} has no valid shape")
    numbers = [*shape, start, end]
    if any(type(number) is not int or not 0 <= number < 2**48 for number in numbers):
        raise WeightsError(f"{name}: {tensor} has an invalid dimension or offset")
    if end - start != math.prod(shape) * ITEM_BYTES[dtype]:
        raise WeightsError(f"{name}: {tensor} has a size that does not match its shape")
    return TensorEntry(dtype, tuple(shape), base + start, end - start)
