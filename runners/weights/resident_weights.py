"""Weights that are on a device now."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from common.limits import MAX_LORAS
from common.protocol import LoraMode
from models.catalog import Catalog
from models.store.inventory import LiveInventory
from models.store.store import CatalogEntry
from runners.device import Device
from runners.networks.depth_estimators import Estimator
from runners.networks.memory_format import MemoryFormats
from runners.networks.sdxl import ControlNet, SdxlModel
from runners.weights.component_cache import ComponentCache
from runners.weights.entry_keys import estimator_key, lora_key
from runners.weights.vram_budget import VramBudget
from runners.weights.working_copies import WorkingCopies


class ResidentWeights:
    """Variants, ControlNets and depth estimators by name, with their shared components.

    Not thread-safe, except the properties and the methods that release memory.

    Args:
        catalog: the catalog of models.
        live_inventory: the store's entries.
        device: device of the weights.
        budget: byte budget of the weights.
        formats: memory formats of the networks.
    """

    def __init__(
        self,
        catalog: Catalog,
        live_inventory: LiveInventory,
        device: Device,
        budget: VramBudget,
        formats: MemoryFormats,
    ) -> None:
        self._live_inventory = live_inventory
        self.variants: dict[str, SdxlModel] = {}
        self.controlnets: dict[str, ControlNet] = {}
        self.estimators: dict[str, Estimator] = {}
        self.components = ComponentCache(catalog, device, formats)
        self.working_copies = WorkingCopies(budget)

    @property
    def used_bytes(self) -> int:
        """Bytes of weights on the device."""
        return sum(self.bytes_by_kind.values())

    @property
    def bytes_by_kind(self) -> dict[str, int]:
        """Bytes by component kind; shared components count once.

        `working_copy` is the memory for merged LoRAs.
        """
        total = self.components.bytes_by_kind
        managers = [variant.loras for variant in list(self.variants.values())]
        for manager in managers:
            total["lora"] += manager.size + manager.set_bytes
        copied = self.working_copies.used_bytes(managers)
        if copied:
            total["working_copy"] = copied
        return dict(total)

    @property
    def lora_modes(self) -> dict[str, LoraMode]:
        """How LoRAs act, by variant."""
        return {name: variant.loras.mode for name, variant in list(self.variants.items())}

    def copy_growth(self, variant: SdxlModel) -> int:
        """Return the most bytes by which a further LoRA of a variant enlarges the working copy."""
        managers = [each.loras for each in self.variants.values()]
        return self.working_copies.growth(variant.unet, managers)

    def request_bytes(self, entry: CatalogEntry) -> int:
        """Return the most bytes that a request of a variant needs, without the working copy."""
        found = self._live_inventory.inventory
        size = self.components.entry_bytes
        loras = sorted(map(size, found.loras.values()), reverse=True)
        return (
            size(entry)
            + max(map(size, found.controlnets.values()), default=0)
            + max(map(size, found.depth_estimators.values()), default=0)
            + sum(loras[:MAX_LORAS])
        )

    def release_lora_sets(self) -> None:
        """Free the cached LoRA sets, which can be rebuilt. Thread-safe."""
        for variant in list(self.variants.values()):
            variant.loras.release_sets()

    def remove_functions(self, is_compiled: bool) -> dict[str, Callable[[], object] | None]:
        """Return what frees each entry, by its key; None for what cannot be freed by itself.

        Args:
            is_compiled: whether the UNets are compiled.
        """
        entries: dict[str, Callable[[], object] | None] = {}
        for name, variant in self.variants.items():
            entries[name] = partial(self.remove, self.variants, name)
            for lora in variant.loras.names:
                # A compiled UNet would be compiled again for the return of a low-rank product.
                can_free = not is_compiled or variant.loras.mode == "merged"
                free = partial(variant.loras.remove, lora) if can_free else None
                entries[lora_key(name, lora)] = free
        for name in self.controlnets:
            entries[name] = partial(self.remove, self.controlnets, name)
        for name in self.estimators:
            entries[estimator_key(name)] = partial(self.remove, self.estimators, name)
        return entries

    def remove(self, entries: dict[str, Any], name: str) -> bool:
        """Remove an entry and its unshared components; return False if it was not there."""
        was_there = entries.pop(name, None) is not None
        self.free_unused()
        return was_there

    def free_unused(self) -> None:
        """Free the components that no entry has."""
        found = self._live_inventory.inventory
        self.components.keep_only(
            entries[name]
            for names, entries in (
                (self.variants, found.models),
                (self.controlnets, found.controlnets),
                (self.estimators, found.depth_estimators),
            )
            for name in names
        )
