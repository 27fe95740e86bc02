"""Casting between float dtypes, piece by piece, with the rounding of torch."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from models.safetensors_file import WeightsError

Dtype = Literal["float16", "bfloat16"]
SAFETENSORS_NAME: dict[Dtype, str] = {"float16": "F16", "bfloat16": "BF16"}
FLOATING = frozenset({"F64", "F32", "F16", "BF16"})

_NOT_A_NUMBER = 0x7FC0
_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}

Array = np.ndarray[Any, Any]


def cast(content: memoryview, source: str, target: str) -> memoryview:
    """Little-endian floats of dtype `source` as dtype `target`, rounded to nearest even.

    Args:
        content: whole elements; left as it is.
        source: F64, F32, F16 or BF16.
        target: F16 or BF16.

    Raises:
        WeightsError: a finite value lies beyond the target's largest.
    """
    if source == target:
        return content
    with np.errstate(over="raise", under="ignore", invalid="ignore"):
        try:
            singles = _singles(content, source)
            halves: Array = singles.astype("<f2") if target == "F16" else _bfloat16(singles)
        except FloatingPointError as error:
            raise WeightsError(f"a value is too large for {target}") from error
    made: memoryview = halves.data
    return made.cast("B")


def _singles(content: memoryview, source: str) -> Array:
    if source == "BF16":
        return (np.frombuffer(content, "<u2").astype("<u4") << np.uint32(16)).view("<f4")
    return np.frombuffer(content, _NUMPY[source]).astype("<f4", copy=False)


def _bfloat16(singles: Array) -> Array:
    """The upper halves of float32 [n] as uint16 [n], rounded to nearest even."""
    bits = singles.view("<u4")
    rounded = bits >> np.uint32(16)
    rounded &= np.uint32(1)
    rounded += np.uint32(0x7FFF)
    rounded += bits
    rounded >>= np.uint32(16)
    halves = rounded.astype("<u2")
    finite = np.isfinite(singles)
    if not finite.all():
        halves[np.isnan(singles)] = _NOT_A_NUMBER
    if ((halves & 0x7F80 == 0x7F80) & finite).any():
        raise FloatingPointError
    return halves
