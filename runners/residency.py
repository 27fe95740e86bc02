"""Which weights are in memory: loaded once, shared by content, dropped on request."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from models.catalog import Catalog
from models.shelf import Shelf
from models.store import Component, Entry
from runners.adapters import AdapterError
from runners.device import Device
from runners.metrics import LOAD_FAILURES, LOAD_SECONDS
from runners.networks import ControlNet, Variant, load_component, split_hint

_TEXT = ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2")


class LoadError(RuntimeError):
    """Weights that could not be loaded; the message names the entry, never a path."""


class Residency:
    """Variants and ControlNets in memory. Components with equal tags exist once.

    Thread-safe: one load runs at a time, and lookups never wait for it. Who holds a Variant keeps
    it alive, so unloading under a running request is safe.
    """

    def __init__(self, catalog: Catalog, shelf: Shelf, device: Device) -> None:
        self._catalog = catalog
        self._shelf = shelf
        self._device = device
        self._variants: dict[str, Variant] = {}
        self._controlnets: dict[str, ControlNet] = {}
        self._loading = threading.Lock()
        self._components: dict[str, Any] = {}
        self._sizes: dict[str, tuple[str, int]] = {}
        self.errors: dict[str, str] = {}

    @property
    def variants(self) -> Mapping[str, Variant]:
        """The variants in memory, by name."""
        return self._variants

    @property
    def controlnets(self) -> Mapping[str, ControlNet]:
        """The ControlNets in memory, by name."""
        return self._controlnets

    @property
    def resident_bytes(self) -> dict[str, int]:
        """Bytes of weights in memory by kind of component; what variants share counts once."""
        total: Counter[str] = Counter()
        for kind, size in list(self._sizes.values()):
            total[kind] += size
        for variant in list(self._variants.values()):
            total["lora"] += variant.adapters.size
        return dict(total)

    def load_variant(self, name: str) -> Variant:
        """Load a variant unless it is resident.

        Raises:
            LoadError: not in the store, or its files do not make a network.
        """
        with self._loading:
            if name not in self._variants:
                entry = self._entry("model", name, self._shelf.inventory.models)
                parts = self._load_parts("model", name, entry)
                text_key = " ".join(entry.components[kind].tag for kind in _TEXT)
                spec = self._catalog.models[name]
                self._variants[name] = Variant.of(name, spec, parts, text_key)
            return self._variants[name]

    def load_controlnet(self, name: str) -> ControlNet:
        """Load a ControlNet unless it is resident; raises LoadError like load_variant."""
        with self._loading:
            if name not in self._controlnets:
                entry = self._entry("controlnet", name, self._shelf.inventory.controlnets)
                parts = self._load_parts("controlnet", name, entry)
                self._controlnets[name] = split_hint(name, parts["controlnet"])
            return self._controlnets[name]

    def load_loras(self, model: str, names: Sequence[str]) -> None:
        """Read LoRAs for a resident variant, each once; raises LoadError like load_variant."""
        with self._loading:
            variant = self._variants[model]
            for name in names:
                entry = self._entry("lora", name, self._shelf.inventory.loras)
                (path,) = entry.components["lora"].path.glob("*.safetensors")
                started = time.monotonic()
                try:
                    if variant.adapters.add(name, path):
                        LOAD_SECONDS.labels("lora", name).observe(time.monotonic() - started)
                except Exception as error:
                    reason = error if isinstance(error, AdapterError) else "it could not be read"
                    message = f"lora {name} for model {model}: {reason}"
                    self.errors[f"lora {name}"] = message
                    LOAD_FAILURES.labels("lora", name).inc()
                    raise LoadError(message) from error
                self.errors.pop(f"lora {name}", None)

    def unload_variant(self, name: str) -> bool:
        """Forget a variant; its own components go with its last user. False if not resident."""
        with self._loading:
            dropped = self._variants.pop(name, None) is not None
            self._forget_unused()
            return dropped

    def unload_controlnet(self, name: str) -> bool:
        """Forget a ControlNet. False if it was not resident."""
        with self._loading:
            dropped = self._controlnets.pop(name, None) is not None
            self._forget_unused()
            return dropped

    def _entry(self, what: str, name: str, entries: Mapping[str, Entry]) -> Entry:
        if name not in entries:
            raise LoadError(f"{what} {name} is not in the model store")
        return entries[name]

    def _load_parts(self, what: str, name: str, entry: Entry) -> dict[str, Any]:
        parts = {}
        started = time.monotonic()
        for kind, component in entry.components.items():
            try:
                parts[kind] = self._component(kind, component)
            except Exception as error:
                message = f"{what} {name}: its {kind} could not be loaded"
                self.errors[f"{what} {name}"] = message
                LOAD_FAILURES.labels(what, name).inc()
                self._forget_unused()
                raise LoadError(message) from error
        LOAD_SECONDS.labels(what, name).observe(time.monotonic() - started)
        self.errors.pop(f"{what} {name}", None)
        return parts

    def _component(self, kind: str, component: Component) -> Any:
        if component.tag not in self._components:
            loaded = load_component(kind, component.path, self._device)
            self._components[component.tag] = loaded
            self._sizes[component.tag] = kind, _size(loaded)
        return self._components[component.tag]

    def _forget_unused(self) -> None:
        used = {
            component.tag
            for names, entries in (
                (self._variants, self._shelf.inventory.models),
                (self._controlnets, self._shelf.inventory.controlnets),
            )
            for name in names
            for component in entries[name].components.values()
        }
        for tag in set(self._components) - used:
            del self._components[tag], self._sizes[tag]


def _size(component: Any) -> int:
    """Bytes of a network's weights; 0 for a tokenizer."""
    if not isinstance(component, nn.Module):
        return 0
    return sum(tensor.nbytes for tensor in (*component.parameters(), *component.buffers()))
