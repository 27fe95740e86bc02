"""Which device the engine uses, and in which precision."""

from __future__ import annotations

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
        cpu = torch.bfloat16 if stored == "bfloat16" else torch.float32
        return cls(torch.device("cpu"), cpu)

    def release_cache(self) -> None:
        """Give cached device memory back after an out-of-memory error."""
        if self.torch_device.type == "cuda":
            torch.cuda.empty_cache()

    def memory(self) -> tuple[float, dict[str, float]]:
        """This process's resident memory in MB, and the GPU's by kind in MB."""
        resident = psutil.Process().memory_info().rss / _MEGABYTE
        if self.torch_device.type != "cuda":
            return resident, {}
        free, total = torch.cuda.mem_get_info(self.torch_device)
        return resident, {
            "allocated_mb": torch.cuda.memory_allocated(self.torch_device) / _MEGABYTE,
            "reserved_mb": torch.cuda.memory_reserved(self.torch_device) / _MEGABYTE,
            "free_mb": free / _MEGABYTE,
            "total_mb": total / _MEGABYTE,
        }


class Pacer:
    """Keeps the host at most one tick ahead of a GPU, without ever draining its queue.

    Waiting for the tick before the last bounds how long a cancelled request still computes, and
    makes the time between two calls the time of a tick. A CPU needs no pacing.
    """

    def __init__(self, device: Device) -> None:
        self._on_gpu = device.torch_device.type == "cuda"
        self._previous: torch.cuda.Event | None = None

    def tick(self) -> None:
        """Mark the end of a tick's launches and wait for the end of the one before."""
        if not self._on_gpu:
            return
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        if self._previous is not None:
            self._previous.synchronize()
        self._previous = event
