"""Search for NaN and infinite values in safetensors files, without converting them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from models.conversion.safetensors_io import (
    ITEM_BYTES,
    TensorEntry,
    WeightsError,
    read_header,
    read_pieces,
)

_PIECE_BYTES = 8 * 2**20
# Bits that are all set in NaN and infinity: the exponent, or in F8_E4M3, which has no infinity,
# everything but the sign.
_MASKS = {"F8_E4M3": 0x7F, "F8_E5M2": 0x7C, "F16": 0x7C00, "BF16": 0x7F80,
          "F32": 0x7F80_0000, "F64": 0x7FF0_0000_0000_0000}  # fmt: skip


def is_finite(content: bytes | bytearray | memoryview, dtype: str) -> bool:
    """Return whether all numbers of a piece of a tensor are finite.

    Args:
        content: whole little-endian numbers.
        dtype: their dtype, a key of ITEM_BYTES; integers are always finite.
    """
    mask = _MASKS.get(dtype)
    if mask is None:
        return True
    unsigned = np.dtype(f"<u{ITEM_BYTES[dtype]}")
    bits = np.frombuffer(content, unsigned) & unsigned.type(mask)
    return not bool((bits == unsigned.type(mask)).any())


def require_finite(path: Path, header: Mapping[str, TensorEntry] | None = None) -> None:
    """Check all numbers of a safetensors file.

    Args:
        path: the file.
        header: its header, read if None.

    Raises:
        WeightsError: a tensor has NaN or infinity; the message names it.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        for name, entry in (header or read_header(path)).items():
            for piece in read_pieces(file, path, entry.start, entry.size, _PIECE_BYTES):
                if not is_finite(piece, entry.dtype):
                    raise WeightsError(
                        f"{path.name}: {name} has NaN or infinity; the file is damaged, "
                        "or its training diverged"
                    )
