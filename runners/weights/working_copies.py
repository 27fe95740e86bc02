"""Choice between merged and low-rank LoRAs, and the working copy of a device."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable

import psutil
from torch import nn

from runners.networks.lora.manager import LoraManager
from runners.networks.lora.working_copy import WorkingCopy
from runners.weights.vram_budget import VramBudget

_HOST_SHARE = 0.25
"""Share of the host's memory that a working copy may take on a device without a budget."""


class WorkingCopies:
    """Working copy of the UNets of one device, and which UNets use it.

    The choice is made once per UNet, from sizes alone, so that a request's image does not depend on
    what else is resident.

    Args:
        budget: byte budget of the weights.
    """

    def __init__(self, budget: VramBudget) -> None:
        self._budget = budget
        self._copy: Callable[[], WorkingCopy | None] = lambda: None
        self._is_merged: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()

    def choose(self, unet: nn.Module, needed: int) -> WorkingCopy | None:
        """Return the working copy for a UNet, None if its LoRAs are low-rank products.

        Args:
            unet: the UNet.
            needed: bytes of all weights that one request can need, the working copy excepted.
        """
        is_merged = self._is_merged.get(unet)
        if is_merged is None:
            size = mergeable_bytes(unet)
            if self._budget.bytes is None:
                is_merged = size <= _HOST_SHARE * psutil.virtual_memory().total
            else:
                is_merged = needed + size <= self._budget.bytes
            self._is_merged[unet] = is_merged
        if not is_merged:
            return None
        # The variants' LoRA managers keep it alive, and it is freed with the last of them.
        copy = self._copy()
        if copy is None:
            copy = WorkingCopy()
            self._copy = weakref.ref(copy)
        return copy

    def used_bytes(self, managers: Iterable[LoraManager]) -> int:
        """Return the bytes that the working copy takes, or will take for the managers' adapters."""
        copy = self._copy()
        allocated = 0 if copy is None else copy.bytes
        return max([allocated, *(manager.copied_bytes for manager in managers)])

    def growth(self, unet: nn.Module, managers: Iterable[LoraManager]) -> int:
        """Return the most bytes by which a further adapter of a UNet enlarges the working copy."""
        if not self._is_merged.get(unet, False):
            return 0
        return max(0, mergeable_bytes(unet) - self.used_bytes(managers))

    def release(self) -> None:
        """Free the memory until the next set; on the device thread."""
        copy = self._copy()
        if copy is not None:
            copy.release()


def mergeable_bytes(unet: nn.Module) -> int:
    """Return the bytes of all parameters of a UNet; adapters can change each of them."""
    return sum(parameter.nbytes for parameter in unet.parameters())
