"""Cache of components on the device, shared by content."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from models.catalog import Catalog
from models.store.inventory import Inventory
from models.store.store import CatalogEntry, Component
from runners.device import Device
from runners.networks.depth_estimators import ESTIMATOR_KINDS, load_estimator
from runners.networks.loading import load_component
from runners.networks.memory_format import MemoryFormats
from runners.networks.pinned_weights import PinnedWeightCache
from runners.networks.weight_upload import WeightUploader
from runners.weights.vram_budget import device_bytes, parameter_bytes


class ComponentCache:
    """Loaded components by tag, so that entries with equal components load them once.

    Not thread-safe, except `bytes_by_kind` and `missing_bytes`.

    Args:
        catalog: the catalog of models.
        device: device of the weights.
        formats: memory formats of the networks.
    """

    def __init__(self, catalog: Catalog, device: Device, formats: MemoryFormats) -> None:
        self._catalog = catalog
        self._device = device
        self._formats = formats
        self.uploader = WeightUploader(device)
        """Copier of all weights to the device."""
        self._pinned: PinnedWeightCache | None = None
        self._components: dict[str, Any] = {}
        self._sizes: dict[str, tuple[str, int]] = {}
        self._stored_sizes: dict[str, int] = {}

    @property
    def bytes_by_kind(self) -> Counter[str]:
        """Bytes of the loaded components by kind."""
        total: Counter[str] = Counter()
        for kind, size in list(self._sizes.values()):
            total[kind] += size
        return total

    def missing_bytes(self, entry: CatalogEntry) -> int:
        """Return the bytes of an entry's components that are not loaded."""
        new = [part for part in entry.components.values() if part.tag not in self._components]
        return sum(map(self._device_bytes, new))

    def entry_bytes(self, entry: CatalogEntry) -> int:
        """Return the bytes of all components of an entry on the device."""
        return sum(map(self._device_bytes, entry.components.values()))

    def _device_bytes(self, component: Component) -> int:
        # A tag names its content, so the headers of its files need to be read only once.
        if component.tag not in self._stored_sizes:
            self._stored_sizes[component.tag] = device_bytes(self._device, component)
        return self._stored_sizes[component.tag]

    def get_or_load(self, name: str, kind: str, component: Component) -> Any:
        """Return a component, and load it first if necessary.

        Args:
            name: name of the entry.
            kind: kind of the component.
            component: the component in the store.

        Raises:
            Exception: the files are damaged or do not match their configuration.
        """
        if component.tag not in self._components:
            if kind in ESTIMATOR_KINDS:
                spec = self._catalog.depth_estimators[name]
                loaded: Any = load_estimator(spec, component.path, self._device, self.uploader)
                size = parameter_bytes(loaded.network)
            else:
                loaded = load_component(
                    kind, component.path, self._device, self.uploader, self._pinned
                )
                self._formats.apply(kind, loaded)
                size = parameter_bytes(loaded)
            self._components[component.tag] = loaded
            self._sizes[component.tag] = kind, size
        return self._components[component.tag]

    def keep_only(self, entries: Iterable[CatalogEntry]) -> None:
        """Free the components that none of the given entries has."""
        used = {part.tag for entry in entries for part in entry.components.values()}
        for tag in set(self._components) - used:
            del self._components[tag], self._sizes[tag]

    def pin_if_larger(self, inventory: Inventory, budget: int) -> None:
        """Keep copies in pinned host memory from now on if the store exceeds the budget.

        Args:
            inventory: the store's entries.
            budget: byte budget of the weights.
        """
        if self._pinned is None:
            sections = (inventory.models, inventory.controlnets, inventory.depth_estimators)
            entries = [entry for section in sections for entry in section.values()]
            parts = {part.tag: part for entry in entries for part in entry.components.values()}
            if sum(device_bytes(self._device, part) for part in parts.values()) > budget:
                self._pinned = PinnedWeightCache(self.uploader)
