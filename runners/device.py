"""Which device the engine uses, and in which precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
import torch

_MEGABYTE = 1e6


@dataclass(frozen=True, slots=True)
class Device:
    """A torch device and the dtype of the networks on it. Latents are float32 everywhere."""

    torch_device: torch.device
    dtype: torch.dtype

    @classmethod
    def best(cls, stored: str | None = None) -> Device:
        """The first GPU in half precision, else the CPU in float32.

        `stored` is the precision of the catalog's weights: bfloat16 is computed with as it is,
        everywhere.
        """
        half = torch.bfloat16 if stored == "bfloat16" else torch.float16
        if torch.cuda.is_available():
            return cls(torch.device("cuda", torch.cuda.current_device()), half)
        if stored == "bfloat16":
            return cls(torch.device("cpu"), torch.bfloat16)
        return CPU

    @classmethod
    def all(cls, stored: str | None = None) -> list[Device]:
        """Every GPU that this process may use; without one the CPU. `stored` as for `best`."""
        first = cls.best(stored)
        if first.torch_device.type != "cuda":
            return [first]
        count = torch.cuda.device_count()
        return [cls(torch.device("cuda", index), first.dtype) for index in range(count)]

    def enter(self) -> None:
        """Make it the calling thread's device."""
        if self.torch_device.type == "cuda":
            torch.cuda.set_device(self.torch_device)

    def release_cache(self) -> None:
        """Give cached device memory back after an out-of-memory error."""
        if self.torch_device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.torch_device.type == "mps":
            torch.mps.empty_cache()


CPU = Device(torch.device("cpu"), torch.float32)


def memory_of(devices: Sequence[Device]) -> tuple[float, dict[str, float]]:
    """This process's resident memory in MB, and that of all GPUs together by kind in MB."""
    resident = psutil.Process().memory_info().rss / _MEGABYTE
    total: Counter[str] = Counter()
    for device in devices:
        if device.torch_device.type == "cuda":
            free, size = torch.cuda.mem_get_info(device.torch_device)
            total["allocated_mb"] += torch.cuda.memory_allocated(device.torch_device)
            total["reserved_mb"] += torch.cuda.memory_reserved(device.torch_device)
            total["free_mb"] += free
            total["total_mb"] += size
        elif device.torch_device.type == "mps":
            total["allocated_mb"] += torch.mps.current_allocated_memory()
            total["reserved_mb"] += torch.mps.driver_allocated_memory()
    return resident, {kind: size / _MEGABYTE for kind, size in total.items()}


class Pacer:
    """Keeps the host at most one tick ahead of a GPU, without ever draining its queue.

    Waiting for the tick before the last bounds how long a cancelled request still computes, and
    makes the time between two calls the time of a tick. MPS has no events of a thread's own and is
    waited for whole; a CPU needs no pacing.
    """

    def __init__(self, device: Device) -> None:
        self._on_gpu = device.torch_device.type == "cuda"
        self._on_mps = device.torch_device.type == "mps"
        self._previous: torch.cuda.Event | None = None

    def tick(self) -> None:
        """Mark the end of a tick's launches and wait for the end of the one before."""
        if self._on_mps:
            torch.mps.synchronize()
        if not self._on_gpu:
            return
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        if self._previous is not None:
            self._previous.synchronize()
        self._previous = event
