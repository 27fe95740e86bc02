"""Piecewise copy and cast of tensors from safetensors files to a new one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from models.conversion.finite import is_finite
from models.conversion.safetensors_io import (
    ITEM_BYTES,
    OnBytes,
    Shape,
    TensorToWrite,
    WeightsError,
    read_pieces,
    write_file,
)

_COPY_BYTES = 8 * 2**20
# A piece and its cast copy fit the L2 cache.
_CAST_BYTES = 2**18
Dtype = Literal["float16", "bfloat16"]
SAFETENSORS_NAME: dict[Dtype, str] = {"float16": "F16", "bfloat16": "BF16"}
EIGHT_BIT_FLOATS = frozenset({"F8_E4M3", "F8_E5M2"})
FLOATING = frozenset({"F64", "F32", "F16", "BF16"}) | EIGHT_BIT_FLOATS
_BF16_NAN = 0x7FC0
_EXPONENT = {"F16": 0x7C00, "BF16": 0x7F80}
_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class TensorSlice:
    """A tensor, or some of its rows, in a file.

    `shape` is the shape of the result, `start` a byte offset. If `transposed`, the file stores
    the columns of `shape` as rows. The result is the file's numbers times `scale`. `name` is that
    of the tensor in the file, for messages.
    """

    path: Path
    dtype: str
    shape: Shape
    start: int
    transposed: bool = False
    scale: float = 1.0
    name: str = ""


def write_slices(
    path: Path,
    pieces: Mapping[str, TensorSlice],
    dtype: Dtype | None,
    advance: OnBytes | None = None,
) -> None:
    """Write a canonical safetensors file from tensors in other files.

    Args:
        path: Path of the result; an existing file is replaced.
        pieces: Source slices by the names of the new tensors.
        dtype: Dtype of the written floating-point tensors; None keeps the sources', or widens all
            of them to float16 if some are 8-bit floats.
        advance: Function called with the number of bytes of each piece written.

    Raises:
        WeightsError: A file is truncated, or a value is NaN, infinite or beyond the dtype's range.
        OSError: A file cannot be read or written.
    """
    if any(piece.dtype in EIGHT_BIT_FLOATS or piece.scale != 1.0 for piece in pieces.values()):
        dtype = dtype or "float16"
    with ExitStack() as stack:
        paths = dict.fromkeys(piece.path for piece in pieces.values())
        files = {each: stack.enter_context(each.open("rb", buffering=0)) for each in paths}
        tensors = {
            name: _new_tensor(name, piece, files[piece.path], dtype)
            for name, piece in pieces.items()
        }
        write_file(path, tensors, advance)


def _new_tensor(
    name: str, piece: TensorSlice, file: BinaryIO, dtype: Dtype | None
) -> TensorToWrite:
    is_cast = dtype is not None and piece.dtype in FLOATING
    target = SAFETENSORS_NAME[dtype] if dtype is not None and is_cast else piece.dtype
    return TensorToWrite(target, piece.shape, partial(_read_content, name, piece, file, target))


def _read_content(
    name: str, piece: TensorSlice, file: BinaryIO, target: str
) -> Iterator[memoryview]:
    """Yield the tensor's bytes in dtype `target`, in pieces."""
    item = ITEM_BYTES[piece.dtype]
    size = math.prod(piece.shape) * item
    step = _COPY_BYTES if target == piece.dtype and piece.scale == 1.0 else _CAST_BYTES
    if piece.transposed:
        step = size
    for content in read_pieces(file, piece.path, piece.start, size, step):
        if piece.transposed:
            content = _transpose(content, piece.shape, item)
        try:
            if not is_finite(content, piece.dtype):
                raise WeightsError("NaN or infinity; the file is damaged, or its training diverged")
            yield cast(content, piece.dtype, target, piece.scale)
        except WeightsError as error:
            label = name if piece.name in {"", name} else f"{piece.name}, here {name}"
            raise WeightsError(f"{piece.path.name}: {label}: {error}") from error


def _transpose(content: memoryview, shape: Shape, item: int) -> memoryview:
    """Transpose a matrix (columns, rows) to (rows, columns) = `shape`; elements of `item` bytes."""
    matrix = np.frombuffer(content, f"<u{item}").reshape(shape[::-1])
    transposed: memoryview = np.ascontiguousarray(matrix.T).data
    return transposed.cast("B")


def cast(content: memoryview, source: str, target: str, scale: float = 1.0) -> memoryview:
    """Cast little-endian floats, rounding to nearest even.

    Args:
        content: Bytes of complete elements; not modified.
        source: Dtype of `content`, of FLOATING; any dtype if it is that of the result.
        target: Dtype of the result: F16 or BF16.
        scale: Factor of the result; the product is rounded to float32 first.

    Raises:
        WeightsError: A finite value exceeds the target's range.
    """
    if source == target and scale == 1.0:
        return content
    if ITEM_BYTES[source] <= 2:
        table = _table(source, target, scale)
        bits16 = table[np.frombuffer(content, f"<u{ITEM_BYTES[source]}")]
    else:
        bits16 = _round_to(_scaled(content, source, scale), target)
    unbounded = bits16 & _EXPONENT[target] == _EXPONENT[target]
    if unbounded.any() and np.isfinite(to_float32(content, source)[unbounded]).any():
        raise WeightsError(f"a value is too large for {target}")
    result: memoryview = bits16.data
    return result.cast("B")


# Every layer of a checkpoint with scales has its own.
@lru_cache(maxsize=16)
def _table(source: str, target: str, scale: float) -> Array:
    """Return every float of a dtype of 8 or 16 bits times `scale`, as bits of `target`, (2**n,)."""
    bits = 8 * ITEM_BYTES[source]
    every = np.arange(2**bits, dtype=f"<u{bits // 8}")
    return _round_to(_scaled(every.data.cast("B"), source, scale), target)


def _scaled(content: memoryview, source: str, scale: float) -> Array:
    """Return floats of dtype `source` times `scale` as float32 (n,)."""
    singles = to_float32(content, source)
    if scale == 1.0:
        return singles
    with np.errstate(all="ignore"):
        product: Array = singles * np.float32(scale)
    return product


def to_float32(content: memoryview, source: str) -> Array:
    """Return floats of dtype `source` as float32 (n,)."""
    if source == "BF16":
        return (np.frombuffer(content, "<u2").astype("<u4") << np.uint32(16)).view("<f4")
    if source == "F8_E4M3":
        return _E4M3[np.frombuffer(content, "<u1")]
    if source == "F8_E5M2":
        # The upper half of a float16.
        halves = (np.frombuffer(content, "<u1").astype("<u2") << np.uint16(8)).view("<f2")
        return halves.astype("<f4")
    with np.errstate(all="ignore"):
        return np.frombuffer(content, _NUMPY[source]).astype("<f4", copy=False)


def _decode_e4m3() -> Array:
    """Return the values of all 8-bit floats with 4 exponent bits, as float32 (256,).

    The exponent's bias is 7. There is no infinity, and NaN has all bits but the sign set
    (arXiv:2209.05433).
    """
    bits = np.arange(256)
    exponent, mantissa = bits >> 3 & 15, bits & 7
    normal = (8 + mantissa) * 2.0 ** (exponent - 10)
    magnitude = np.where(exponent == 0, mantissa * 2.0**-9, normal)
    magnitude[bits & 0x7F == 0x7F] = np.nan
    return np.where(bits >> 7, -magnitude, magnitude).astype("<f4")


_E4M3 = _decode_e4m3()


def _round_to(singles: Array, target: str) -> Array:
    """Round float32 (n,) to the bits of `target`, uint16 (n,); overflow becomes infinity."""
    if target == "F16":
        with np.errstate(all="ignore"):
            return singles.astype("<f2").view("<u2")
    bits = singles.view("<u4")
    rounded = bits >> np.uint32(16)
    rounded &= np.uint32(1)
    rounded += np.uint32(0x7FFF)
    rounded += bits
    rounded >>= np.uint32(16)
    bits16 = rounded.astype("<u2")
    # Rounding would carry some NaNs into the sign bit.
    bits16[np.isnan(singles)] = _BF16_NAN
    return bits16
