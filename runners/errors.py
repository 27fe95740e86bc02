"""Runner exceptions and their mapping to API errors."""

from __future__ import annotations

from common.protocol import JobFailed
from runners.device_faults import is_out_of_memory


class LoadError(RuntimeError):
    """Failure to load weights; the message names the catalog entry, never a path."""


class UnusableWeightsError(LoadError):
    """Weights that no retry can load for the request; callers see the message."""


def to_failure(error: Exception) -> JobFailed:
    """Map an exception to an API error; unexpected exceptions become `internal` without details."""
    match error:
        case SchedulerChoiceError() | DeepCacheError() | PromptLengthError():
            return JobFailed("invalid_request", str(error))
        case _ if is_out_of_memory(error):
            return JobFailed("out_of_memory", "the device is out of memory", 5.0)
        case UnusableWeightsError():
            return JobFailed("invalid_request", str(error))
        case LoadError():
            return JobFailed("not_ready", str(error), 30.0)
        case _:
            return JobFailed("internal", "internal error")


class NonFiniteError(RuntimeError):
    """NaN or infinity in a network's output, which would otherwise become a black image."""


class PromptLengthError(ValueError):
    """A prompt with too many tokens; callers see the message."""


class DeepCacheError(ValueError):
    """A UNet whose architecture does not support DeepCache; callers see the message."""


class SchedulerChoiceError(ValueError):
    """An unknown scheduler or scheduler setting; callers see the message."""


class AdapterError(RuntimeError):
    """An adapter file that does not fit the model; the message says what it is."""


class WarmUpError(RuntimeError):
    """A failed warm-up image; the message contains its size and the reason."""
