"""Sums of matrix products in float16 instead of float32.

GeForce cards multiply float16 matrices about twice as fast with such sums, which round more and can
overflow. The switch is torch's and holds for the whole process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch

Mode = Literal["off", "on", "auto"]


def is_enabled() -> bool:
    """Return whether sums are in float16 now."""
    enabled: bool = torch.backends.cuda.matmul.allow_fp16_accumulation
    return enabled


def enable(enabled: bool) -> None:
    """Switch sums in float16 on or off."""
    torch.backends.cuda.matmul.allow_fp16_accumulation = enabled


@contextlib.contextmanager
def exact_sums(needed: bool) -> Iterator[None]:
    """Switch sums in float16 off until the block ends, if needed."""
    if not needed or not is_enabled():
        yield
        return
    enable(False)
    try:
        yield
    finally:
        enable(True)
