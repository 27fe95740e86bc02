"""Cache of loaded weights: shared by content, evicted by last use, unloaded on request."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import structlog

from models.catalog import Catalog
from models.store.inventory import LiveInventory
from models.store.store import CatalogEntry, Component
from runners.device import Device
from runners.diffusion.compile import Compiler
from runners.errors import AdapterError, LoadError
from runners.metrics import LOAD_FAILURES, LOAD_SECONDS
from runners.networks.depth_estimators import ESTIMATOR_KINDS, Estimator, load_estimator
from runners.networks.loading import extract_hint_embedding, load_component
from runners.networks.pinned_weights import PinnedWeightCache
from runners.networks.sdxl import ControlNet, SdxlModel
from runners.weights.vram_budget import VramBudget, device_bytes, parameter_bytes

log = structlog.get_logger(__name__)

_EVICTION_POLL_SECONDS = 0.02
_ESTIMATOR = "depth_estimator"
_TEXT = ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2")


class ModelCache:
    """Variants, ControlNets and depth estimators on the device, within a byte budget.

    Components with equal tags are loaded once. A load evicts the least recently used idle entries
    until it fits. Evicted networks reload from pinned host memory, estimators from their file. A
    variant's LoRAs are evicted with it.

    Thread-safe: one load runs at a time, and lookups never wait for it. Running requests hold a
    reference to their networks; unloaded weights are freed when the last request ends.

    `in_use` returns the names of variants and ControlNets that requests use, and the
    `estimator_key` of every estimator with unfinished jobs.

    Args:
        catalog: the catalog of models.
        shelf: the store's entries.
        device: device of the weights.
        budget: byte budget; measured if None.
        compiler: compiler of loaded networks; inactive if None.
    """

    def __init__(
        self,
        catalog: Catalog,
        shelf: LiveInventory,
        device: Device,
        budget: VramBudget | None = None,
        compiler: Compiler | None = None,
    ) -> None:
        self.in_use: Callable[[], set[str]] = set
        self.budget = budget or VramBudget(device)
        self.compiler = compiler or Compiler()
        self._catalog = catalog
        self._shelf = shelf
        self._device = device
        self._pinned: PinnedWeightCache | None = None
        self._variants: dict[str, SdxlModel] = {}
        self._controlnets: dict[str, ControlNet] = {}
        self._estimators: dict[str, Estimator] = {}
        self._loading = threading.Lock()
        self._components: dict[str, Any] = {}
        self._sizes: dict[str, tuple[str, int]] = {}
        self._last_used: dict[str, int] = {}
        self._use_counter = itertools.count()
        self.eviction_blocked = False
        """Whether a load waits for running requests to end, so that it can evict their weights."""
        self.errors: dict[str, str] = {}

    @property
    def variants(self) -> Mapping[str, SdxlModel]:
        """Resident variants by name."""
        return self._variants

    @property
    def controlnets(self) -> Mapping[str, ControlNet]:
        """Resident ControlNets by name."""
        return self._controlnets

    @property
    def estimators(self) -> Mapping[str, Estimator]:
        """Resident depth estimators by name."""
        return self._estimators

    @property
    def used_bytes(self) -> int:
        """Bytes of weights on the device."""
        return sum(self.resident_bytes.values())

    @property
    def resident_bytes(self) -> dict[str, int]:
        """Bytes of resident weights by component kind; shared components count once."""
        total: Counter[str] = Counter()
        for kind, size in list(self._sizes.values()):
            total[kind] += size
        for variant in list(self._variants.values()):
            total["lora"] += variant.loras.size
        return dict(total)

    def touch(self, model: str, controlnet: str) -> tuple[SdxlModel | None, ControlNet | None]:
        """Return the resident networks, None for others, and mark both names as used now."""
        for name in (model, controlnet):
            self._last_used[name] = next(self._use_counter)
        return self._variants.get(model), self._controlnets.get(controlnet)

    def touch_estimator(self, name: str) -> Estimator | None:
        """Return a depth estimator, None if not resident, and mark it as used now."""
        self._last_used[estimator_key(name)] = next(self._use_counter)
        return self._estimators.get(name)

    def load_variant(self, name: str, beside: Collection[str] = ()) -> SdxlModel:
        """Load a variant unless it is resident; entries named in `beside` are not evicted.

        Raises:
            LoadError: the variant is not in the store, does not fit or cannot be loaded.
        """
        with self._loading:
            if name not in self._variants:
                entry = self._entry("model", name, self._shelf.inventory.models)
                self._make_room("model", name, entry, beside)
                parts = self._load_parts("model", name, entry)
                text_key = " ".join(entry.components[kind].tag for kind in _TEXT)
                spec = self._catalog.models[name]
                variant = SdxlModel.from_components(name, spec, parts, text_key)
                if self.compiler.active:
                    # All LoRAs load first, because a later one would trigger a recompilation.
                    self._read_loras(variant, tuple(self._shelf.inventory.loras))
                    self.compiler.compile_unet(variant, self._device)
                self._variants[name] = variant
            return self._variants[name]

    def load_controlnet(self, name: str, beside: Collection[str] = ()) -> ControlNet:
        """Load a ControlNet unless it is resident, like `load_variant`.

        Raises:
            LoadError: the ControlNet is not in the store, does not fit or cannot be loaded.
        """
        with self._loading:
            if name not in self._controlnets:
                entry = self._entry("controlnet", name, self._shelf.inventory.controlnets)
                self._make_room("controlnet", name, entry, beside)
                parts = self._load_parts("controlnet", name, entry)
                controlnet = extract_hint_embedding(name, parts["controlnet"])
                self.compiler.compile_controlnet(controlnet, self._device)
                self._controlnets[name] = controlnet
            return self._controlnets[name]

    def load_estimator(self, name: str) -> Estimator:
        """Load a depth estimator unless it is resident, like `load_variant`.

        Raises:
            LoadError: the estimator is not in the store, does not fit or cannot be loaded.
        """
        self.touch_estimator(name)
        with self._loading:
            if name not in self._estimators:
                entry = self._entry(_ESTIMATOR, name, self._shelf.inventory.depth_estimators)
                self._make_room(_ESTIMATOR, name, entry, ())
                parts = self._load_parts(_ESTIMATOR, name, entry)
                (self._estimators[name],) = parts.values()
            return self._estimators[name]

    def load_loras(self, model: str, names: Sequence[str]) -> None:
        """Read LoRAs for a resident variant, each once.

        Raises:
            LoadError: a LoRA is not in the store, is unreadable or does not match the UNet.
        """
        with self._loading:
            self._read_loras(self._variants[model], names)

    def unload_variant(self, name: str) -> bool:
        """Unload a variant and its unshared components; return False if it was not resident."""
        with self._loading:
            was_resident = self._variants.pop(name, None) is not None
            self._free_unused_components()
            return was_resident

    def unload_controlnet(self, name: str) -> bool:
        """Unload a ControlNet; return False if it was not resident."""
        with self._loading:
            was_resident = self._controlnets.pop(name, None) is not None
            self._free_unused_components()
            return was_resident

    def _read_loras(self, variant: SdxlModel, names: Sequence[str]) -> None:
        for name in names:
            entry = self._entry("lora", name, self._shelf.inventory.loras)
            (path,) = entry.components["lora"].path.glob("*.safetensors")
            started = time.monotonic()
            try:
                if variant.loras.add(name, path):
                    LOAD_SECONDS.labels("lora", name).observe(time.monotonic() - started)
            except Exception as error:
                reason = error if isinstance(error, AdapterError) else "the file could not be read"
                message = f"lora {name} for model {variant.name}: {reason}"
                self.errors[f"lora {name}"] = message
                LOAD_FAILURES.labels("lora", name).inc()
                raise LoadError(message) from error
            self.errors.pop(f"lora {name}", None)

    def _make_room(
        self, what: str, name: str, entry: CatalogEntry, beside: Collection[str]
    ) -> None:
        """Evict the least recently used idle entries until the new entry fits.

        If all entries are in use, wait for running requests to end.

        Raises:
            LoadError: the entry exceeds the budget alone.
        """
        if self.budget.bytes is None:
            return
        self._create_pinned_cache(self.budget.bytes)
        new = [c for c in entry.components.values() if c.tag not in self._components]
        needed = sum(device_bytes(self._device, component) for component in new)
        try:
            while self.used_bytes + needed > self.budget.bytes:
                names = {*self._variants, *self._controlnets} - {name, *beside}
                names |= {estimator_key(each) for each in self._estimators}
                if not names:
                    message = (
                        f"{what} {name}: its {needed / 1e9:.1f} GB do not fit into the "
                        f"{self.budget.bytes / 1e9:.1f} GB for weights (VRAM_BUDGET_GB)"
                    )
                    self.errors[f"{what} {name}"] = message
                    raise LoadError(message)
                idle = names - self.in_use()
                if idle:
                    oldest = min(idle, key=lambda name: self._last_used.get(name, -1))
                    self._variants.pop(oldest, None)
                    self._controlnets.pop(oldest, None)
                    self._estimators.pop(oldest.removeprefix(f"{_ESTIMATOR} "), None)
                    self._free_unused_components()
                    log.info("left the device", name=oldest)
                else:
                    self.eviction_blocked = True
                    time.sleep(_EVICTION_POLL_SECONDS)
        finally:
            self.eviction_blocked = False

    def _create_pinned_cache(self, bound: int) -> None:
        """Create the host copy cache if the store's weights exceed the budget."""
        if self._pinned is None:
            found = self._shelf.inventory
            sections = (found.models, found.controlnets, found.depth_estimators)
            entries = [entry for section in sections for entry in section.values()]
            parts = {part.tag: part for entry in entries for part in entry.components.values()}
            if sum(device_bytes(self._device, part) for part in parts.values()) > bound:
                self._pinned = PinnedWeightCache(self._device)

    def _entry(self, what: str, name: str, entries: Mapping[str, CatalogEntry]) -> CatalogEntry:
        if name not in entries:
            raise LoadError(f"{what} {name} is not in the model store")
        return entries[name]

    def _load_parts(self, what: str, name: str, entry: CatalogEntry) -> dict[str, Any]:
        parts = {}
        started = time.monotonic()
        for kind, component in entry.components.items():
            try:
                parts[kind] = self._component(name, kind, component)
            except LoadError as error:
                self.errors[f"{what} {name}"] = str(error)
                LOAD_FAILURES.labels(what, name).inc()
                raise
            except Exception as error:
                message = f"{what} {name}: its {kind} could not be loaded"
                self.errors[f"{what} {name}"] = message
                LOAD_FAILURES.labels(what, name).inc()
                self._free_unused_components()
                raise LoadError(message) from error
        LOAD_SECONDS.labels(what, name).observe(time.monotonic() - started)
        self.errors.pop(f"{what} {name}", None)
        return parts

    def _component(self, name: str, kind: str, component: Component) -> Any:
        if component.tag not in self._components:
            if kind in ESTIMATOR_KINDS:
                spec = self._catalog.depth_estimators[name]
                loaded: Any = load_estimator(spec, component.path, self._device)
                size = parameter_bytes(loaded.network)
            else:
                loaded = load_component(kind, component.path, self._device, self._pinned)
                size = parameter_bytes(loaded)
            self._components[component.tag] = loaded
            self._sizes[component.tag] = kind, size
        return self._components[component.tag]

    def _free_unused_components(self) -> None:
        used = {
            component.tag
            for names, entries in (
                (self._variants, self._shelf.inventory.models),
                (self._controlnets, self._shelf.inventory.controlnets),
                (self._estimators, self._shelf.inventory.depth_estimators),
            )
            for name in names
            for component in entries[name].components.values()
        }
        for tag in set(self._components) - used:
            del self._components[tag], self._sizes[tag]


def estimator_key(name: str) -> str:
    """Return the key of a depth estimator among the names of variants and ControlNets."""
    return f"{_ESTIMATOR} {name}"
