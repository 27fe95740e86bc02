"""Device errors: work recovers from a lack of memory, and a lost context ends the process."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import structlog
import torch

from runners.device import Device

log = structlog.get_logger(__name__)

EXIT_STATUS = 70
"""Exit status of a runner whose device is lost (EX_SOFTWARE of sysexits.h)."""

_CUDA_OUT_OF_MEMORY = 2
# cuBLAS and cuDNN allocate outside torch's allocator, and torch reports their failures as plain
# RuntimeErrors. Their handles are created lazily, which fails as NOT_INITIALIZED without memory.
_LIBRARY_FAILURES = (
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
)
# torch's segments that can grow allocate by the driver, whose failure is a plain RuntimeError too.
_DRIVER_OUT_OF_MEMORY = "CUDA driver error: out of memory"
_MAX_LIBRARY_FAILURES = 3


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether torch, the driver or a library reports a lack of device memory."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    if isinstance(error, torch.AcceleratorError):
        code = getattr(error, "error_code", None)
        return code == _CUDA_OUT_OF_MEMORY or "out of memory" in str(error)
    is_driver = isinstance(error, RuntimeError) and _DRIVER_OUT_OF_MEMORY in str(error)
    return is_driver or _is_library_failure(error)


def is_context_lost(error: BaseException) -> bool:
    """Return whether an error, or one of its causes, leaves the device's context unusable.

    CUDA reports such errors at any later call, and every call fails from then on.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, torch.AcceleratorError) and not is_out_of_memory(cause):
            return True
        cause = cause.__cause__
    return False


class DeviceFaults:
    """Examination of a device's errors, which ends the process when the context is lost.

    A context is also lost when cuBLAS or cuDNN fail to allocate three times without a completed
    step in between. The supervisor starts a new runner, and callers get `runner_lost`. Thread-safe.

    Args:
        device: the device.
        end_process: function that ends the process at once, with an exit status.
    """

    def __init__(self, device: Device, end_process: Callable[[int], Any] = os._exit) -> None:
        self._device = device.torch_device
        self._end_process = end_process
        self._lock = threading.Lock()
        self._library_failures = 0

    def examine(self, error: Exception) -> Exception:
        """Return an error, without the traceback if it reports a lack of memory.

        A traceback holds the tensors of the failed attempt. Their memory is free once the caller
        has left its `except` block.
        """
        if is_context_lost(error) or (_is_library_failure(error) and self._is_repeated()):
            self._end(error)
        if is_out_of_memory(error):
            error.__context__ = error.__cause__ = None
            return error.with_traceback(None)
        return error

    def on_step(self) -> None:
        """Record that the device completed a step."""
        with self._lock:
            self._library_failures = 0

    def _is_repeated(self) -> bool:
        with self._lock:
            self._library_failures += 1
            return self._library_failures >= _MAX_LIBRARY_FAILURES

    def _end(self, error: Exception) -> None:
        log.critical(
            "the device is lost, the runner ends",
            device=str(self._device),
            torch=torch.__version__,
            **self._describe(),
            exc_info=error,
        )
        sys.stdout.flush()
        sys.stderr.flush()
        self._end_process(EXIT_STATUS)

    def _describe(self) -> dict[str, Any]:
        """Return what is known of the device without asking its context."""
        if self._device.type != "cuda":
            return {}
        return {
            "cuda": torch.version.cuda,
            "allocated_mb": torch.cuda.memory_allocated(self._device) // 10**6,
            "reserved_mb": torch.cuda.memory_reserved(self._device) // 10**6,
            "peak_mb": torch.cuda.max_memory_reserved(self._device) // 10**6,
        }


def _is_library_failure(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and any(name in str(error) for name in _LIBRARY_FAILURES)
