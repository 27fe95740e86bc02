"""Errors of a device: what is recovered from, and what ends the process."""

from __future__ import annotations

import gc
import weakref

import pytest
import structlog
import torch

from runners.device import Device
from runners.device_faults import EXIT_STATUS, DeviceFaults, is_context_lost, is_out_of_memory
from runners.errors import LoadError, to_failure

CUBLAS = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def accelerator_error(text: str, code: int) -> torch.AcceleratorError:
    error = torch.AcceleratorError(text)
    error.error_code = code
    return error


@pytest.fixture
def ended() -> list[int]:
    return []


@pytest.fixture
def faults(ended: list[int]) -> DeviceFaults:
    return DeviceFaults(Device(torch.device("cpu"), torch.float32), ended.append)


@pytest.mark.parametrize(
    ("error", "memory", "lost"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True, False),
        (accelerator_error("CUDA error: out of memory", 2), True, False),
        (RuntimeError("CUDA driver error: out of memory"), True, False),
        (CUBLAS, True, False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True, False),
        (accelerator_error("CUDA error: an illegal memory access", 700), False, True),
        (accelerator_error("CUDA error: device-side assert triggered", 710), False, True),
        (accelerator_error("CUDA error: unspecified launch failure", 719), False, True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False, False),
        (ValueError("CUDNN_STATUS_ALLOC_FAILED"), False, False),
    ],
)  # fmt: skip
def test_kinds(
    error: Exception, memory: bool, lost: bool, ended: list[int], faults: DeviceFaults
) -> None:
    assert (is_out_of_memory(error), is_context_lost(error)) == (memory, lost)
    assert (to_failure(error).error == "out_of_memory") is memory
    faults.examine(error)
    assert ended == [EXIT_STATUS] * lost


def test_a_load_that_meets_a_lost_context_ends_the_process(
    ended: list[int], faults: DeviceFaults
) -> None:
    error = LoadError("model base: its unet could not be loaded")
    error.__cause__ = accelerator_error("CUDA error: misaligned address", 716)
    with structlog.testing.capture_logs() as logs:
        faults.examine(error)
    assert ended == [EXIT_STATUS]
    assert logs[0]["log_level"] == "critical"
    assert logs[0]["device"] == "cpu"


def test_repeated_failures_of_a_library_end_the_process(
    ended: list[int], faults: DeviceFaults
) -> None:
    faults.examine(CUBLAS)
    faults.examine(CUBLAS)
    faults.on_step()
    faults.examine(CUBLAS)
    faults.examine(CUBLAS)
    assert ended == []
    faults.examine(CUBLAS)
    assert ended == [EXIT_STATUS]


def test_examined_error_holds_no_tensor_of_the_failed_attempt(faults: DeviceFaults) -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def attempt() -> None:
        activation = torch.zeros(3)
        held.append(weakref.ref(activation))
        try:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED")
        except RuntimeError as error:
            raise torch.OutOfMemoryError("no memory") from error

    gc.disable()
    try:
        failure = None
        try:
            attempt()
        except Exception as error:
            failure = faults.examine(error)
        assert isinstance(failure, torch.OutOfMemoryError)
        assert held[0]() is None
    finally:
        gc.enable()
