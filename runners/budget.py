"""How many bytes of weights the device may hold."""

from __future__ import annotations

import torch

from runners.device import Device

_CONTEXT_BYTES = 750_000_000
"""CUDA's own: context, libraries, workspaces, and what the allocator cannot use."""
_WORK_BYTES = 5_000_000_000
"""What the largest picture's work is taken to need until it has been measured."""
_MARGIN = 1.15


class Budget:
    """Bytes for weights: what was set, or what a GPU has beside the work; None is no bound.

    Args:
        device: where the weights lie.
        gigabytes: VRAM_BUDGET_GB, in 1e9 bytes.
    """

    def __init__(self, device: Device, gigabytes: float | None = None) -> None:
        self._device = device.torch_device
        self._measured = gigabytes is None and self._device.type == "cuda"
        self.bytes = None if gigabytes is None else int(gigabytes * 1e9)
        if self._measured:
            self._leave(_WORK_BYTES)
        self._before = 0

    def start_work(self) -> None:
        """The first pictures follow: what they need at most is what is left free from then on."""
        if self._measured:
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)

    def end_work(self) -> None:
        """The first pictures are done."""
        if self._measured:
            peak = torch.cuda.max_memory_allocated(self._device)
            self._leave(int((peak - self._before) * _MARGIN))

    def _leave(self, work: int) -> None:
        _, total = torch.cuda.mem_get_info(self._device)
        self.bytes = max(0, total - _CONTEXT_BYTES - work)
