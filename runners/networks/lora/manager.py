"""LoRAs and related adapters of a model: combination and activation."""

from __future__ import annotations

import contextlib
import itertools
import threading
import weakref
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from common.lru_cache import LRUCache
from common.protocol import LoraMode, LoraWeight
from runners.networks.lora.adapter_file import AdapterFile, read_adapter
from runners.networks.lora.combination import LayerCombination, LoraCombination
from runners.networks.lora.hooks import add_output_hook
from runners.networks.lora.merge_plan import MergePlan
from runners.networks.lora.weight_change import AdapterLayer
from runners.networks.lora.working_copy import WorkingCopy, copied_bytes
from runners.networks.static_conditioning import separate_projections
from runners.networks.weight_upload import WeightUploader

_MAX_SETS = 16
_SET_BYTES = 512 * 2**20


class LoraManager:
    """Adapters of one model, each read once and stored in the networks' dtype.

    With a working copy, a set is merged into it when it becomes active, and a step costs nothing
    more. Without one, an active set costs each layer of the UNet one low-rank product for any
    number of LoRAs, because their factors are concatenated with the strengths folded in; changes of
    other families are computed at every call. Text encoders, which a prompt passes once, always
    take that path. The networks' own weights are never modified.

    The last 16 concatenated sets are cached, up to 512 MiB, because a strength slider creates a new
    set at every position. A merged set's plan, which is the same for all strengths, counts there,
    too.

    Args:
        unet: the UNet whose layers the adapters change.
        text_encoders: the text encoders, likewise.
        working_copy: memory of merged weights; None for low-rank products.
        max_set_bytes: maximum bytes of the cached sets beyond the adapters.
    """

    _numbers = itertools.count()

    def __init__(
        self,
        unet: nn.Module,
        text_encoders: Sequence[nn.Module] = (),
        working_copy: WorkingCopy | None = None,
        max_set_bytes: int = _SET_BYTES,
    ) -> None:
        self._unet = unet
        self._text_encoders = tuple(text_encoders)
        self.working_copy = working_copy
        self._lock = threading.Lock()
        self._adapters: dict[str, AdapterFile] = {}
        self._uids: dict[str, int] = {}
        self._sets: LRUCache[tuple[Hashable, ...], LoraCombination] = LRUCache(
            max_set_bytes, lambda combination: combination.bytes, _MAX_SETS
        )
        self._plans: LRUCache[tuple[int, ...], MergePlan] = LRUCache(
            max_set_bytes, lambda plan: plan.own_bytes, _MAX_SETS
        )
        self._active: Mapping[str, LayerCombination] = {}
        self._hooked: set[str] = set()
        self.warnings: dict[str, str] = {}
        self.copied_bytes = 0
        """Bytes of the working copy that a set of all loaded adapters needs."""

    @property
    def mode(self) -> LoraMode:
        """How sets act on the UNet."""
        return "low_rank" if self.working_copy is None else "merged"

    @property
    def size(self) -> int:
        """Bytes of the loaded adapters."""
        with self._lock:
            return sum(adapter.bytes for adapter in self._adapters.values())

    @property
    def set_bytes(self) -> int:
        """Bytes of the cached sets beyond the adapters."""
        return self._sets.used_bytes + self._plans.used_bytes

    @property
    def active_layers(self) -> Mapping[str, LayerCombination]:
        """Combined changes of the active adapters by layer; empty outside an activation."""
        return self._active

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the loaded adapters."""
        with self._lock:
            return tuple(self._adapters)

    @torch.inference_mode()
    def add(self, name: str, path: Path, uploader: WeightUploader | None = None) -> bool:
        """Read an adapter's safetensors file; return False if already loaded.

        Args:
            name: name of the adapter.
            path: the file.
            uploader: copier of weights to the networks' device; a new one if None.

        Raises:
            AdapterError: the file is no adapter for these networks; the message says what it is.
        """
        if name in self._adapters:
            return False
        # All adapter tensors are inference tensors, so that compiled blocks see one kind of tensor
        # for shared and for combined factors.
        adapter = read_adapter(path, self._unet, self._text_encoders, uploader)
        if self.working_copy is None:
            # One product for query, key and value would pass the hooks by.
            separate_projections(self._unet)
            self._hook(self._unet, adapter.unet, "")
        for number, (encoder, layers) in enumerate(
            zip(self._text_encoders, adapter.text, strict=True)
        ):
            self._hook(encoder, layers, _text_prefix(number))
        if adapter.warning is not None:
            self.warnings[name] = f"lora {name}: {adapter.warning}"
        with self._lock:
            self._adapters[name] = adapter
            self._uids[name] = next(self._numbers)
        self._count_copied()
        return True

    def remove(self, name: str) -> None:
        """Forget an adapter and the sets with it; no request may use it."""
        with self._lock:
            del self._adapters[name], self._uids[name]
            self._sets.clear()
            self._plans.clear()
        self.warnings.pop(name, None)
        self._count_copied()

    def prepare(self, loras: Sequence[LoraWeight]) -> bool:
        """Give the UNet the merged weights of exactly these adapters; on the device thread.

        Does nothing in low-rank mode.

        Returns:
            Whether a set has been merged.
        """
        copy = self.working_copy
        key = self.set_key(loras)
        if copy is None or copy.is_merged(self._unet, key):
            return False
        if key is None:
            copy.restore()
            return False
        with self._lock:
            plan = self._plans.get_or_create(
                tuple(self._uids[lora.name] for lora in loras),
                lambda: MergePlan(self._unet, [self._adapters[lora.name].unet for lora in loras]),
            )
        copy.merge(self._unet, key, plan, [lora.strength for lora in loras])
        return True

    @contextlib.contextmanager
    def activate(self, loras: Sequence[LoraWeight]) -> Iterator[None]:
        """Apply exactly these adapters to the UNet until the block ends.

        A merged set stays in the UNet's weights until another call; so every evaluation of the UNet
        needs one, without adapters too.
        """
        if self.working_copy is not None:
            self.prepare(loras)
            yield
            return
        with self._lock:
            combination = self._sets.get_or_create(
                ("unet", *loras),
                lambda: LoraCombination.from_layers(
                    [(self._adapters[lora.name].unet, lora.strength) for lora in loras]
                ),
            )
        with self._acting(combination):
            yield

    @contextlib.contextmanager
    def activate_text(self, loras: Sequence[LoraWeight]) -> Iterator[None]:
        """Apply exactly these adapters to the text encoders until the block ends."""
        with self._lock:
            combination = self._sets.get_or_create(
                ("text", *loras),
                lambda: LoraCombination.from_layers(
                    [(_text_layers(self._adapters[lora.name]), lora.strength) for lora in loras]
                ),
            )
        with self._acting(combination):
            yield

    def set_key(self, loras: Sequence[LoraWeight]) -> Hashable:
        """Return what identifies a set, None for none; a name can get another file later."""
        with self._lock:
            return tuple((self._uids[lora.name], lora.strength) for lora in loras) or None

    def text_key(self, loras: Sequence[LoraWeight]) -> Hashable:
        """Return what identifies the effect of adapters on the text encoders; None without one."""
        with self._lock:
            return (
                tuple(
                    (self._uids[lora.name], lora.strength)
                    for lora in loras
                    if any(self._adapters[lora.name].text)
                )
                or None
            )

    def release_sets(self) -> None:
        """Evict all cached sets to free memory. Thread-safe."""
        with self._lock:
            self._sets.clear()
            self._plans.clear()

    def _count_copied(self) -> None:
        if self.working_copy is not None:
            with self._lock:
                adapters = [adapter.unet for adapter in self._adapters.values()]
            self.copied_bytes = copied_bytes(self._unet, adapters)

    @contextlib.contextmanager
    def _acting(self, combination: LoraCombination) -> Iterator[None]:
        self._active = combination.layers
        try:
            yield
        finally:
            self._active = {}

    def _hook(self, network: nn.Module, layers: Mapping[str, AdapterLayer], prefix: str) -> None:
        for layer in layers:
            name = f"{prefix}{layer}"
            if name not in self._hooked:
                module = network.get_submodule(layer)
                add_output_hook(module, weakref.WeakMethod(self._change), name)
                self._hooked.add(name)

    def _change(
        self, layer: str, module: nn.Module, inputs: torch.Tensor, output: torch.Tensor
    ) -> bool:
        """Add the active adapters' change to a layer's output; return False without one."""
        change = self._active.get(layer)
        if change is None:
            return False
        change.add_to(module, inputs, output)
        return True


def _text_layers(adapter: AdapterFile) -> dict[str, AdapterLayer]:
    return {
        f"{_text_prefix(number)}{layer}": change
        for number, layers in enumerate(adapter.text)
        for layer, change in layers.items()
    }


def _text_prefix(number: int) -> str:
    return f"text_encoder_{number + 1}."
