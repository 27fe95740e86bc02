"""Default of CUDA's memory allocator; imports no torch, which reads it."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

_NAMES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")


def set_allocator_default(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let the allocator grow its segments, unless the operator has configured it.

    Requests of different sizes otherwise fragment the memory of a card that is nearly full. torch
    reads the variables when it allocates first.
    """
    if not any(name in environment for name in _NAMES):
        environment[_NAMES[0]] = "expandable_segments:True"
