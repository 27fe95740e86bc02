"""Tensors from one safetensors file to another, cast on the way, never whole in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from models.half_precision import FLOATING, SAFETENSORS_NAME, Dtype, cast
from models.safetensors_file import (
    ITEM_BYTES,
    Advance,
    NewTensor,
    Shape,
    WeightsError,
    read_pieces,
    write_file,
)

_COPIED_BYTES = 8 * 2**20
# Fits the second-level cache together with what casting makes of it.
_CAST_BYTES = 2**18


@dataclass(frozen=True, slots=True)
class Piece:
    """A tensor, or some rows of one, in a file: `shape` is what it becomes, `start` a byte.

    Where `transposed`, the file holds the columns of `shape` as rows.
    """

    path: Path
    dtype: str
    shape: Shape
    start: int
    transposed: bool = False


def write_pieces(
    path: Path, pieces: Mapping[str, Piece], dtype: Dtype | None, advance: Advance | None = None
) -> None:
    """Write a canonical safetensors file of tensors that lie in other files.

    Args:
        path: replaced if it exists.
        pieces: by the names that the tensors get.
        dtype: what floating tensors become; None keeps what they are.
        advance: called with the number of bytes of each piece written.

    Raises:
        WeightsError: a file is truncated, holds 8-bit floats, or a value beyond the dtype.
        OSError: a file cannot be read or written.
    """
    with ExitStack() as stack:
        paths = dict.fromkeys(piece.path for piece in pieces.values())
        files = {each: stack.enter_context(each.open("rb", buffering=0)) for each in paths}
        tensors = {
            name: _new_tensor(name, piece, files[piece.path], dtype)
            for name, piece in pieces.items()
        }
        write_file(path, tensors, advance)


def _new_tensor(name: str, piece: Piece, file: BinaryIO, dtype: Dtype | None) -> NewTensor:
    if piece.dtype.startswith("F8"):
        raise WeightsError(f"{piece.path.name}: {name} is in 8 bits ({piece.dtype}): not read")
    wanted = dtype is not None and piece.dtype in FLOATING
    target = SAFETENSORS_NAME[dtype] if dtype is not None and wanted else piece.dtype
    return NewTensor(target, piece.shape, partial(_content, name, piece, file, target))


def _content(name: str, piece: Piece, file: BinaryIO, target: str) -> Iterator[memoryview]:
    """The tensor's bytes in dtype `target`, piece by piece."""
    item = ITEM_BYTES[piece.dtype]
    size = math.prod(piece.shape) * item
    step = _COPIED_BYTES if target == piece.dtype else _CAST_BYTES
    if piece.transposed:
        step = size
    for content in read_pieces(file, piece.path, piece.start, size, step):
        if piece.transposed:
            content = _transposed(content, piece.shape, item)
        try:
            yield cast(content, piece.dtype, target)
        except WeightsError as error:
            raise WeightsError(f"{piece.path.name}: {name}: {error}") from error


def _transposed(content: memoryview, shape: Shape, item: int) -> memoryview:
    """A matrix [columns, rows] as [rows, columns] = `shape`, of elements of `item` bytes."""
    matrix = np.frombuffer(content, f"<u{item}").reshape(shape[::-1])
    turned: memoryview = np.ascontiguousarray(matrix.T).data
    return turned.cast("B")
