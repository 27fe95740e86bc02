"""Casting between float dtypes, piece by piece, with the rounding of torch."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import numpy as np

from models.safetensors_file import WeightsError

Dtype = Literal["float16", "bfloat16"]
SAFETENSORS_NAME: dict[Dtype, str] = {"float16": "F16", "bfloat16": "BF16"}
FLOATING = frozenset({"F64", "F32", "F16", "BF16"})

_NOT_A_NUMBER = 0x7FC0
_EXPONENT = {"F16": 0x7C00, "BF16": 0x7F80}
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
    if source in _EXPONENT:
        halves = _table(source, target)[np.frombuffer(content, "<u2")]
    else:
        halves = _rounded(_singles(content, source), target)
    unbounded = halves & _EXPONENT[target] == _EXPONENT[target]
    if unbounded.any() and np.isfinite(_singles(content, source)[unbounded]).any():
        raise WeightsError(f"a value is too large for {target}")
    made: memoryview = halves.data
    return made.cast("B")


@cache
def _table(source: str, target: str) -> Array:
    """Every 16-bit float of dtype `source` in dtype `target`: uint16 [65536]."""
    every = np.arange(2**16, dtype="<u2")
    return _rounded(_singles(every.data.cast("B"), source), target)


def _singles(content: memoryview, source: str) -> Array:
    """Floats of dtype `source` as float32 [n]."""
    if source == "BF16":
        return (np.frombuffer(content, "<u2").astype("<u4") << np.uint32(16)).view("<f4")
    with np.errstate(all="ignore"):
        return np.frombuffer(content, _NUMPY[source]).astype("<f4", copy=False)


def _rounded(singles: Array, target: str) -> Array:
    """float32 [n] as the bits of `target`, uint16 [n]; infinite where they are too large."""
    if target == "F16":
        with np.errstate(all="ignore"):
            return singles.astype("<f2").view("<u2")
    bits = singles.view("<u4")
    rounded = bits >> np.uint32(16)
    rounded &= np.uint32(1)
    rounded += np.uint32(0x7FFF)
    rounded += bits
    rounded >>= np.uint32(16)
    halves = rounded.astype("<u2")
    # Rounding would carry some of these over into the sign.
    halves[np.isnan(singles)] = _NOT_A_NUMBER
    return halves
