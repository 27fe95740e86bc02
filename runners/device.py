"""Devices, their precision, memory and pacing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil
import structlog
import torch

_MEGABYTE = 1e6
log = structlog.get_logger(__name__)
_QUERY_INTERVAL_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Device:
    """A torch device and the dtype of the networks on it.

    Latents are float32 on every device.
    """

    torch_device: torch.device
    dtype: torch.dtype

    @classmethod
    def best(cls, stored: str | None = None) -> Device:
        """Return the first GPU in half precision, else the CPU in float32.

        `stored` is the dtype name of the catalog's weights. bfloat16 weights run in bfloat16 on
        every device.
        """
        half = torch.bfloat16 if stored == "bfloat16" else torch.float16
        if torch.cuda.is_available():
            return cls(torch.device("cuda", torch.cuda.current_device()), half)
        if stored == "bfloat16":
            return cls(torch.device("cpu"), torch.bfloat16)
        return CPU

    @classmethod
    def all(cls, stored: str | None = None) -> list[Device]:
        """Return every visible GPU, or the CPU without one. `stored` is as in `best`."""
        first = cls.best(stored)
        if first.torch_device.type != "cuda":
            return [first]
        count = torch.cuda.device_count()
        return [cls(torch.device("cuda", index), first.dtype) for index in range(count)]

    def activate(self) -> None:
        """Set this device as the current device of the calling thread."""
        if self.torch_device.type == "cuda":
            torch.cuda.set_device(self.torch_device)

    def release_cache(self) -> None:
        """Free the allocator's cached device memory after an out-of-memory error."""
        if self.torch_device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.torch_device.type == "mps":
            torch.mps.empty_cache()


CPU = Device(torch.device("cpu"), torch.float32)


def memory_usage(devices: Sequence[Device]) -> tuple[float, dict[str, float]]:
    """Return this process's resident memory and the summed GPU memory by kind, both in MB."""
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


class LaunchThrottle:
    """Limit on how far the host runs ahead of a GPU: one tick, so that its queue never drains.

    The limit bounds how long a cancelled request keeps computing. It also makes the interval
    between two calls equal to the duration of a tick. MPS has no per-thread events, so it is
    synchronized completely. A CPU needs no throttling.
    """

    def __init__(self, device: Device) -> None:
        self._on_gpu = device.torch_device.type == "cuda"
        self._on_mps = device.torch_device.type == "mps"
        self._previous: torch.cuda.Event | None = None

    def tick(self) -> None:
        """Record the end of a tick's launches and wait until the device ends the previous tick."""
        if self._on_mps:
            torch.mps.synchronize()
        if not self._on_gpu:
            return
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        if self._previous is not None:
            self._previous.synchronize()
        self._previous = event


class GpuUtilization:
    """GPU utilization from the driver, read at most every two seconds.

    The first failed query disables all later ones.
    """

    def __init__(self, device: Device, clock: Callable[[], float] = time.monotonic) -> None:
        self._device = device.torch_device
        self._available = self._device.type == "cuda"
        self._clock = clock
        self._queried_at = float("-inf")
        self._utilization: float | None = None

    def utilization(self) -> float | None:
        """Return the recent share of time in which the GPU was busy, 0 to 1; None if unknown."""
        now = self._clock()
        if self._available and now - self._queried_at >= _QUERY_INTERVAL_SECONDS:
            self._queried_at = now
            try:
                self._utilization = torch.cuda.utilization(self._device) / 100
            except Exception as error:
                # Drivers, containers and MIG slices raise different exception types here.
                log.warning("the GPU's utilization is not known", error=str(error))
                self._available, self._utilization = False, None
        return self._utilization
