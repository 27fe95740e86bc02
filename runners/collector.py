"""Python's garbage collector, kept away from what never dies."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Make objects for the process's whole life: do not look for garbage, now or later.

    Importing torch, diffusers and transformers makes a million of them. The collector would walk
    all again and again, which is a quarter of the time of importing, and afterwards now and then
    0.3 s in the middle of a step.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
