"""The C library's heap."""

from __future__ import annotations

import ctypes


def trim_heap() -> None:
    """Give freed memory back to the system; where the C library is not glibc, nothing happens.

    Bodies, pictures, and tensors on the CPU come from the heap, and small blocks that live long lie
    between large ones that do not: what is freed stays with the process until somebody asks.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
