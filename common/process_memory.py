"""Heap trimming and garbage collection."""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

IDLE_TRIM_SECONDS = 10.0
"""Idle time after which a process trims its heap."""


def trim_heap() -> None:
    """Return freed memory to the system; do nothing if the C library is not glibc.

    Request bodies, images and CPU tensors fragment the heap, because small long-lived blocks lie
    between large short-lived ones. Without an explicit trim, the process keeps the freed memory.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class IdleHeapTrimmer:
    """Context manager for requests that trims the heap after 10 s without one.

    Use it on the event loop only; see `trim_heap`.
    """

    def __init__(self) -> None:
        self._active = 0
        self._due: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        self._active += 1
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def __exit__(self, *_: object) -> None:
        self._active -= 1
        if not self._active:
            self._due = asyncio.get_running_loop().call_later(IDLE_TRIM_SECONDS, trim_heap)


@contextmanager
def gc_frozen_after() -> Iterator[None]:
    """Disable the garbage collector during the context, then freeze the created objects.

    Importing torch, diffusers and transformers creates a million long-lived objects. Scanning them
    takes a quarter of the import time, and later up to 0.3 s during a denoising step.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
