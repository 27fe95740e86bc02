"""What callers are told of an exception that ended their request."""

from __future__ import annotations

import torch

from runners.conditioning import PromptLengthError
from runners.deepcache import DeepCacheError
from runners.messages import Failed
from runners.schedulers import SchedulerChoiceError


class LoadError(RuntimeError):
    """Weights that could not be loaded; the message names the entry, never a path."""


def failure_of(error: Exception) -> Failed:
    """The wire contract's error; what it does not foresee is the log's alone."""
    match error:
        case SchedulerChoiceError() | DeepCacheError() | PromptLengthError():
            return Failed("invalid_request", str(error))
        case torch.OutOfMemoryError():
            return Failed("out_of_memory", "the device's memory does not suffice", 5.0)
        case LoadError():
            return Failed("not_ready", str(error), 30.0)
        case _:
            return Failed("internal", "internal error")
