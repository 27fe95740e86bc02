"""Working copy of a UNet's weights into which a set of LoRAs is merged.

A merged set makes a step cost what it costs without LoRAs. The pristine weights are never written,
so leaving a set is exact, and a set does not depend on those before it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from runners.networks.lora.merge_plan import MergePlan, Parameter
from runners.networks.lora.weight_change import AdapterLayer
from runners.networks.static_conditioning import join_projections


class WorkingCopy:
    """Memory for the merged weights of one UNet at a time; shared by all UNets of a device.

    Not thread-safe: all methods run on the device thread, `bytes` excepted.
    """

    def __init__(self) -> None:
        self._memory: torch.Tensor | None = None
        self._parameters: list[tuple[weakref.ref[nn.Module], str]] = []
        self._attentions: list[weakref.ref[nn.Module]] = []
        self._unet: Callable[[], nn.Module | None] = lambda: None
        self._plan: Callable[[], MergePlan | None] = lambda: None
        self._key: Hashable = None

    @property
    def bytes(self) -> int:
        """Bytes of the memory; it grows with the largest set so far."""
        memory = self._memory
        return 0 if memory is None else memory.nbytes

    def is_merged(self, unet: nn.Module, key: Hashable) -> bool:
        """Return whether the UNet's weights are those of a set.

        Args:
            unet: the UNet.
            key: what identifies the set; None for the pristine weights.
        """
        if self._unet() is not unet:
            return key is None
        return self._key == key

    @torch.inference_mode(mode=False)
    @torch.no_grad()
    def merge(
        self, unet: nn.Module, key: Hashable, plan: MergePlan, strengths: Sequence[float]
    ) -> None:
        """Give a UNet's layers the weights W + sum(strength * change).

        Args:
            unet: the UNet.
            key: what identifies the set.
            plan: the set's plan for the UNet.
            strengths: strength of each adapter of the plan.
        """
        if self._unet() is unet and self._plan() is plan and self._memory is not None:
            # The layers have these parameters already.
            try:
                plan.write(self._memory, strengths)
            except BaseException:
                self.restore()
                raise
            self._key = key
            return
        self.restore()
        memory = self._reserve(plan.size, next(unet.parameters()).device)
        # Not assigned before all are merged, because the memory may not suffice.
        plan.write(memory, strengths)
        for parameter, merged in zip(plan.parameters, plan.views(memory), strict=True):
            parameter.assign(merged)
            self._parameters.append((weakref.ref(parameter.module), parameter.name))
        self._attentions = [weakref.ref(layer) for layer in plan.attentions]
        self._join()
        self._unet, self._plan, self._key = weakref.ref(unet), weakref.ref(plan), key

    def restore(self) -> None:
        """Give the layers their pristine weights."""
        for reference, name in self._parameters:
            module = reference()
            if module is not None:
                Parameter(module, name).restore()
        self._join()
        self._parameters, self._attentions = [], []
        self._unet, self._plan, self._key = lambda: None, lambda: None, None

    def release(self) -> None:
        """Restore the layers and free the memory, until the next set."""
        self.restore()
        self._memory = None

    def _join(self) -> None:
        for reference in self._attentions:
            layer = reference()
            if layer is not None:
                join_projections(layer)

    def _reserve(self, size: int, device: torch.device) -> torch.Tensor:
        if self._memory is None or self._memory.nbytes < size or self._memory.device != device:
            # Freed before the larger one is made.
            self._memory = None
            self._memory = torch.empty(size, dtype=torch.uint8, device=device)
        return self._memory


def copied_bytes(unet: nn.Module, adapters: Iterable[Mapping[str, AdapterLayer]]) -> int:
    """Return the bytes that a working copy needs for a set of all adapters, by module name."""
    parameters = set()
    for layers in adapters:
        for name, layer in layers.items():
            if layer.weight is not None:
                parameters.add((name, "weight"))
            if layer.bias is not None:
                parameters.add((name, "bias"))
    modules: Any = {name: unet.get_submodule(name) for name, _ in parameters}
    return sum(getattr(modules[name], parameter).nbytes for name, parameter in parameters)
