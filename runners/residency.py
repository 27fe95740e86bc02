"""Which weights are in memory: loaded once, shared by content, dropped on request."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import structlog

from models.catalog import Catalog
from models.shelf import Shelf
from models.store import Component, Entry
from runners.adapters import AdapterError
from runners.budget import Budget
from runners.compilation import Compiler
from runners.device import Device
from runners.estimators import ESTIMATOR_KINDS, Estimator, load_estimator
from runners.failure import LoadError
from runners.metrics import LOAD_FAILURES, LOAD_SECONDS
from runners.networks import ControlNet, Variant, load_component, split_hint
from runners.pinned import PinnedStore
from runners.sizes import bytes_on, size_of

log = structlog.get_logger(__name__)

_CROWDED_SECONDS = 0.02
_ESTIMATOR = "depth_estimator"
_TEXT = ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2")


class Residency:
    """Variants, ControlNets and depth estimators on the device, within a budget of bytes.

    Components with equal tags exist once. What does not fit makes room: what was asked for longest
    ago leaves the device, never what is in use, and comes back from pinned host memory, estimators
    from their file. LoRAs go with their variant.

    Thread-safe: one load runs at a time, and lookups never wait for it. Who holds a Variant keeps
    it alive, so what leaves under a running request is freed when that ends.

    `in_use` tells which variants and ControlNets requests are being painted with, by name, and
    which estimators are waited for, by `estimator_key`.
    """

    def __init__(
        self,
        catalog: Catalog,
        shelf: Shelf,
        device: Device,
        budget: Budget | None = None,
        compiler: Compiler | None = None,
    ) -> None:
        self.in_use: Callable[[], set[str]] = set
        self.budget = budget or Budget(device)
        self.compiler = compiler or Compiler()
        self._catalog = catalog
        self._shelf = shelf
        self._device = device
        self._pinned: PinnedStore | None = None
        self._variants: dict[str, Variant] = {}
        self._controlnets: dict[str, ControlNet] = {}
        self._estimators: dict[str, Estimator] = {}
        self._loading = threading.Lock()
        self._components: dict[str, Any] = {}
        self._sizes: dict[str, tuple[str, int]] = {}
        self._asked: dict[str, int] = {}
        self._questions = itertools.count()
        self.crowded = False
        """Whether a load waits for requests to end, so that their weights may leave."""
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
    def estimators(self) -> Mapping[str, Estimator]:
        """The depth estimators in memory, by name."""
        return self._estimators

    @property
    def held(self) -> int:
        """Bytes of weights on the device."""
        return sum(self.resident_bytes.values())

    @property
    def resident_bytes(self) -> dict[str, int]:
        """Bytes of weights in memory by kind of component; what variants share counts once."""
        total: Counter[str] = Counter()
        for kind, size in list(self._sizes.values()):
            total[kind] += size
        for variant in list(self._variants.values()):
            total["lora"] += variant.adapters.size
        return dict(total)

    def ask(self, model: str, controlnet: str) -> tuple[Variant | None, ControlNet | None]:
        """What of both is on the device; they count as used now."""
        for name in (model, controlnet):
            self._asked[name] = next(self._questions)
        return self._variants.get(model), self._controlnets.get(controlnet)

    def use_estimator(self, name: str) -> Estimator | None:
        """A depth estimator, if it is on the device; it counts as used now."""
        self._asked[estimator_key(name)] = next(self._questions)
        return self._estimators.get(name)

    def load_variant(self, name: str, beside: Collection[str] = ()) -> Variant:
        """Load a variant unless it is resident; what is named in `beside` does not leave for it.

        Raises:
            LoadError: not in the store, or its files do not make a network.
        """
        with self._loading:
            if name not in self._variants:
                entry = self._entry("model", name, self._shelf.inventory.models)
                self._make_room("model", name, entry, beside)
                parts = self._load_parts("model", name, entry)
                text_key = " ".join(entry.components[kind].tag for kind in _TEXT)
                spec = self._catalog.models[name]
                variant = Variant.of(name, spec, parts, text_key)
                if self.compiler.active:
                    # Nobody waits for it yet; a LoRA that came later would compile it anew.
                    self._read_loras(variant, tuple(self._shelf.inventory.loras))
                    self.compiler.variant(variant, self._device)
                self._variants[name] = variant
            return self._variants[name]

    def load_controlnet(self, name: str, beside: Collection[str] = ()) -> ControlNet:
        """Load a ControlNet unless it is resident; see load_variant."""
        with self._loading:
            if name not in self._controlnets:
                entry = self._entry("controlnet", name, self._shelf.inventory.controlnets)
                self._make_room("controlnet", name, entry, beside)
                parts = self._load_parts("controlnet", name, entry)
                controlnet = split_hint(name, parts["controlnet"])
                self.compiler.controlnet(controlnet, self._device)
                self._controlnets[name] = controlnet
            return self._controlnets[name]

    def load_estimator(self, name: str) -> Estimator:
        """Load a depth estimator unless it is resident; see load_variant."""
        self.use_estimator(name)
        with self._loading:
            if name not in self._estimators:
                entry = self._entry(_ESTIMATOR, name, self._shelf.inventory.depth_estimators)
                self._make_room(_ESTIMATOR, name, entry, ())
                parts = self._load_parts(_ESTIMATOR, name, entry)
                (self._estimators[name],) = parts.values()
            return self._estimators[name]

    def load_loras(self, model: str, names: Sequence[str]) -> None:
        """Read LoRAs for a resident variant, each once; raises LoadError like load_variant."""
        with self._loading:
            self._read_loras(self._variants[model], names)

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

    def _read_loras(self, variant: Variant, names: Sequence[str]) -> None:
        for name in names:
            entry = self._entry("lora", name, self._shelf.inventory.loras)
            (path,) = entry.components["lora"].path.glob("*.safetensors")
            started = time.monotonic()
            try:
                if variant.adapters.add(name, path):
                    LOAD_SECONDS.labels("lora", name).observe(time.monotonic() - started)
            except Exception as error:
                reason = error if isinstance(error, AdapterError) else "it could not be read"
                message = f"lora {name} for model {variant.name}: {reason}"
                self.errors[f"lora {name}"] = message
                LOAD_FAILURES.labels("lora", name).inc()
                raise LoadError(message) from error
            self.errors.pop(f"lora {name}", None)

    def _make_room(self, what: str, name: str, entry: Entry, beside: Collection[str]) -> None:
        """Let what was asked for longest ago leave until the entry fits; wait for what is in use.

        Raises:
            LoadError: it would not fit alone.
        """
        if self.budget.bytes is None:
            return
        self._keep_copies(self.budget.bytes)
        new = [c for c in entry.components.values() if c.tag not in self._components]
        needed = sum(bytes_on(self._device, component) for component in new)
        try:
            while self.held + needed > self.budget.bytes:
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
                    oldest = min(idle, key=lambda name: self._asked.get(name, -1))
                    self._variants.pop(oldest, None)
                    self._controlnets.pop(oldest, None)
                    self._estimators.pop(oldest.removeprefix(f"{_ESTIMATOR} "), None)
                    self._forget_unused()
                    log.info("left the device", name=oldest)
                else:
                    self.crowded = True
                    time.sleep(_CROWDED_SECONDS)
        finally:
            self.crowded = False

    def _keep_copies(self, bound: int) -> None:
        """Once it is known that not everything fits, what is loaded keeps a copy on the host."""
        if self._pinned is None:
            found = self._shelf.inventory
            sections = (found.models, found.controlnets, found.depth_estimators)
            entries = [entry for section in sections for entry in section.values()]
            parts = {part.tag: part for entry in entries for part in entry.components.values()}
            if sum(bytes_on(self._device, part) for part in parts.values()) > bound:
                self._pinned = PinnedStore(self._device)

    def _entry(self, what: str, name: str, entries: Mapping[str, Entry]) -> Entry:
        if name not in entries:
            raise LoadError(f"{what} {name} is not in the model store")
        return entries[name]

    def _load_parts(self, what: str, name: str, entry: Entry) -> dict[str, Any]:
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
                self._forget_unused()
                raise LoadError(message) from error
        LOAD_SECONDS.labels(what, name).observe(time.monotonic() - started)
        self.errors.pop(f"{what} {name}", None)
        return parts

    def _component(self, name: str, kind: str, component: Component) -> Any:
        if component.tag not in self._components:
            if kind in ESTIMATOR_KINDS:
                spec = self._catalog.depth_estimators[name]
                loaded: Any = load_estimator(spec, component.path, self._device)
                size = size_of(loaded.network)
            else:
                loaded = load_component(kind, component.path, self._device, self._pinned)
                size = size_of(loaded)
            self._components[component.tag] = loaded
            self._sizes[component.tag] = kind, size
        return self._components[component.tag]

    def _forget_unused(self) -> None:
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
    """How a depth estimator is called among the names of variants and ControlNets."""
    return f"{_ESTIMATOR} {name}"
