"""Cache of loaded weights: shared by content, evicted by last use, unloaded on request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from common.protocol import LoraMode
from models.catalog import Catalog
from models.catalog.scheduler import resolve_scheduler
from models.store.inventory import LiveInventory
from models.store.store import CatalogEntry
from runners.device import Device
from runners.diffusion.compile import Compiler
from runners.errors import AdapterError, LoadError, UnusableWeightsError
from runners.networks.depth_estimators import Estimator
from runners.networks.loading import extract_hint_embedding
from runners.networks.memory_format import MemoryFormats
from runners.networks.sdxl import ControlNet, SdxlModel
from runners.weights.entry_keys import estimator_key, lora_key
from runners.weights.evictor import Evictor
from runners.weights.load_rate import LoadRate
from runners.weights.load_recorder import LoadRecorder
from runners.weights.resident_weights import ResidentWeights
from runners.weights.vram_budget import VramBudget, device_file_bytes

_ESTIMATOR = "depth_estimator"
_TEXT = ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2")


class ModelCache:
    """Variants, ControlNets and depth estimators on the device, within a byte budget.

    Components with equal tags are loaded once. A load evicts the least recently used idle entries
    until it fits, after the cached LoRA sets. Evicted networks reload from pinned host memory,
    estimators and LoRAs from their file. A variant's LoRAs are evicted one by one or with it.

    Thread-safe: one load runs at a time, and lookups never wait for it. Running requests hold a
    reference to their networks; unloaded weights are freed when the last request ends.

    Args:
        catalog: the catalog of models.
        live_inventory: the store's entries.
        device: device of the weights.
        budget: byte budget; measured if None.
        compiler: compiler of loaded networks; inactive if None.
        in_use: function that returns what must not be evicted: names of variants and ControlNets,
            and keys by `lora_key` and `estimator_key`. Called from the loading thread.
        next_in_line: function that returns the keys that the next request needs, likewise.
    """

    def __init__(
        self,
        catalog: Catalog,
        live_inventory: LiveInventory,
        device: Device,
        budget: VramBudget | None = None,
        compiler: Compiler | None = None,
        in_use: Callable[[], set[str]] = set,
        next_in_line: Callable[[], set[str]] = set,
    ) -> None:
        self.budget = budget or VramBudget(device)
        self.compiler = compiler or Compiler()
        self.formats = MemoryFormats()
        self._evictor = Evictor(self.budget, in_use, next_in_line)
        self._catalog = catalog
        self._live_inventory = live_inventory
        self._device = device
        self._resident = ResidentWeights(catalog, live_inventory, device, self.budget, self.formats)
        self._components = self._resident.components
        self._loading = threading.Lock()
        self._recorder = LoadRecorder()

    @property
    def errors(self) -> Mapping[str, str]:
        """Messages of the entries whose last load failed, by kind and name."""
        return self._recorder.errors

    @property
    def load_rate(self) -> LoadRate:
        """Measured speed of the loads."""
        return self._recorder.rate

    @property
    def variants(self) -> Mapping[str, SdxlModel]:
        """Resident variants by name."""
        return self._resident.variants

    @property
    def controlnets(self) -> Mapping[str, ControlNet]:
        """Resident ControlNets by name."""
        return self._resident.controlnets

    @property
    def estimators(self) -> Mapping[str, Estimator]:
        """Resident depth estimators by name."""
        return self._resident.estimators

    @property
    def eviction_blocked(self) -> bool:
        """Whether a load waits for running requests to end, so that it can evict their weights."""
        return self._evictor.is_blocked

    @property
    def used_bytes(self) -> int:
        """Bytes of weights on the device."""
        return self._resident.used_bytes

    @property
    def resident_bytes(self) -> dict[str, int]:
        """Bytes of resident weights by component kind; shared components count once.

        `working_copy` is the memory for merged LoRAs.
        """
        return self._resident.bytes_by_kind

    @property
    def lora_modes(self) -> dict[str, LoraMode]:
        """How LoRAs act, by resident variant."""
        return self._resident.lora_modes

    def load_seconds(self, model: str = "", controlnet: str = "", estimator: str = "") -> float:
        """Return the expected seconds until these entries are resident; 0 if they are."""
        found = self._live_inventory.inventory
        absent = [
            entries[name]
            for name, resident, entries in (
                (model, self._resident.variants, found.models),
                (controlnet, self._resident.controlnets, found.controlnets),
                (estimator, self._resident.estimators, found.depth_estimators),
            )
            if name in entries and name not in resident
        ]
        return self.load_rate.seconds(sum(map(self._components.missing_bytes, absent)))

    def touch(
        self, model: str, controlnet: str, loras: Sequence[str] = ()
    ) -> tuple[SdxlModel | None, ControlNet | None]:
        """Return the resident networks, None for others, and mark all names as used now.

        A variant without one of the LoRAs counts as not resident. What `in_use` named before the
        call stays resident afterwards.

        Args:
            model: name of the variant.
            controlnet: name of the ControlNet.
            loras: names of the variant's LoRAs.
        """
        with self._evictor.lock:
            keys = [lora_key(model, name) for name in loras]
            self._evictor.touch([model, controlnet, *keys])
            variant = self._resident.variants.get(model)
            if variant is not None and not set(loras) <= set(variant.loras.names):
                variant = None
            return variant, self._resident.controlnets.get(controlnet)

    def touch_estimator(self, name: str) -> Estimator | None:
        """Return a depth estimator, None if not resident, and mark it as used now."""
        self._evictor.touch([estimator_key(name)])
        return self._resident.estimators.get(name)

    def load_variant(self, name: str, beside: Collection[str] = ()) -> SdxlModel:
        """Load a variant unless it is resident; entries named in `beside` are not evicted.

        Raises:
            LoadError: the variant is not in the store, does not fit or cannot be loaded.
        """
        with self._loading:
            if name not in self._resident.variants:
                entry = self._entry("model", name, self._live_inventory.inventory.models)
                self._make_room_for("model", name, entry, beside)
                parts = self._load_parts("model", name, entry)
                text_key = " ".join(entry.components[kind].tag for kind in _TEXT)
                spec = self._catalog.models[name]
                scheduler = resolve_scheduler(spec.scheduler, entry.prediction)
                spec = spec.model_copy(update={"scheduler": scheduler})
                copy = self._resident.working_copies.choose(
                    parts["unet"], self._resident.request_bytes(entry)
                )
                variant = SdxlModel.from_components(name, spec, parts, text_key, copy)
                if self.compiler.active and copy is None:
                    # All LoRAs load first, because a later one would trigger a recompilation.
                    for lora in self._live_inventory.inventory.loras:
                        self._read_lora(variant, lora, self._lora_file(lora))
                if self.compiler.active:
                    self.compiler.compile_unet(variant, self._device)
                self._resident.variants[name] = variant
            return self._resident.variants[name]

    def load_controlnet(self, name: str, beside: Collection[str] = ()) -> ControlNet:
        """Load a ControlNet unless it is resident, like `load_variant`.

        Raises:
            LoadError: the ControlNet is not in the store, does not fit or cannot be loaded.
        """
        with self._loading:
            if name not in self._resident.controlnets:
                entry = self._entry("controlnet", name, self._live_inventory.inventory.controlnets)
                self._make_room_for("controlnet", name, entry, beside)
                parts = self._load_parts("controlnet", name, entry)
                controlnet = extract_hint_embedding(name, parts["controlnet"])
                self.compiler.compile_controlnet(controlnet, self._device)
                self._resident.controlnets[name] = controlnet
            return self._resident.controlnets[name]

    def load_estimator(self, name: str) -> Estimator:
        """Load a depth estimator unless it is resident, like `load_variant`.

        Raises:
            LoadError: the estimator is not in the store, does not fit or cannot be loaded.
        """
        self.touch_estimator(name)
        with self._loading:
            if name not in self._resident.estimators:
                entry = self._entry(
                    _ESTIMATOR, name, self._live_inventory.inventory.depth_estimators
                )
                self._make_room_for(_ESTIMATOR, name, entry, ())
                parts = self._load_parts(_ESTIMATOR, name, entry)
                (self._resident.estimators[name],) = parts.values()
            return self._resident.estimators[name]

    def load_loras(self, model: str, names: Sequence[str], beside: Collection[str] = ()) -> None:
        """Read LoRAs for a resident variant, each once; like `load_variant`, make room for them.

        A variant that was unloaded meanwhile gets none.

        Args:
            model: name of the variant.
            names: names of the LoRAs.
            beside: names of entries that are not evicted.

        Raises:
            LoadError: a LoRA is not in the store, does not fit or is unreadable.
            UnusableWeightsError: a LoRA's file is not for this variant.
        """
        with self._loading:
            variant = self._resident.variants.get(model)
            if variant is None:
                return
            kept = {*beside, model, *(lora_key(model, name) for name in names)}
            for name in names:
                if name not in variant.loras.names:
                    file = self._lora_file(name)
                    size = partial(self._lora_bytes, variant, file)
                    self._make_room("lora", name, size, kept)
                    self._read_lora(variant, name, file)

    def release_lora_sets(self) -> None:
        """Free the cached LoRA sets, which can be rebuilt. Thread-safe."""
        self._resident.release_lora_sets()

    def release_working_copy(self) -> None:
        """Free the memory of merged LoRAs until the next set; on the device thread."""
        self._resident.working_copies.release()

    def unload_variant(self, name: str) -> bool:
        """Unload a variant and its unshared components; return False if it was not resident."""
        with self._loading:
            return self._resident.remove(self._resident.variants, name)

    def unload_controlnet(self, name: str) -> bool:
        """Unload a ControlNet; return False if it was not resident."""
        with self._loading:
            return self._resident.remove(self._resident.controlnets, name)

    def _lora_file(self, name: str) -> Path:
        entry = self._entry("lora", name, self._live_inventory.inventory.loras)
        (path,) = entry.components["lora"].path.glob("*.safetensors")
        return path

    def _lora_bytes(self, variant: SdxlModel, file: Path) -> int:
        """Return the bytes of a LoRA and of what the working copy can need for it."""
        return device_file_bytes(self._device, file) + self._resident.copy_growth(variant)

    def _read_lora(self, variant: SdxlModel, name: str, file: Path) -> None:
        subject = f"lora {name} for model {variant.name}"
        with self._recorder.recording(
            "lora", name, lambda _: f"{subject}: the file could not be read"
        ):
            try:
                variant.loras.add(name, file, self._components.uploader)
            except AdapterError as error:
                raise UnusableWeightsError(f"{subject}: {error}") from error

    def _make_room_for(
        self, what: str, name: str, entry: CatalogEntry, beside: Collection[str]
    ) -> None:
        missing = partial(self._components.missing_bytes, entry)
        self._make_room(what, name, missing, {name, *beside})

    def _make_room(
        self, what: str, name: str, needed: Callable[[], int], kept: Collection[str]
    ) -> None:
        """Evict idle entries, except the kept ones, until a new one fits.

        Raises:
            LoadError: the entry exceeds the budget alone.
        """
        if self.budget.bytes is not None:
            self._components.pin_if_larger(self._live_inventory.inventory, self.budget.bytes)
            if self.used_bytes + needed() > self.budget.bytes:
                self.release_lora_sets()
        try:
            self._evictor.make_room(
                f"{what} {name}",
                needed,
                lambda: self.used_bytes,
                lambda: self._resident.remove_functions(self.compiler.active),
                kept,
            )
        except LoadError as error:
            self._recorder.fail(what, name, str(error))
            raise

    def _entry(self, what: str, name: str, entries: Mapping[str, CatalogEntry]) -> CatalogEntry:
        if name not in entries:
            raise LoadError(f"{what} {name} is not in the model store")
        return entries[name]

    def _load_parts(self, what: str, name: str, entry: CatalogEntry) -> dict[str, Any]:
        parts: dict[str, Any] = {}

        def explain(_: Exception) -> str:
            missing = next(kind for kind in entry.components if kind not in parts)
            return f"{what} {name}: its {missing} could not be loaded"

        try:
            size = self._components.missing_bytes(entry)
            with self._recorder.recording(what, name, explain, size):
                for kind, component in entry.components.items():
                    parts[kind] = self._components.get_or_load(name, kind, component)
        except LoadError:
            self._resident.free_unused()
            raise
        return parts
