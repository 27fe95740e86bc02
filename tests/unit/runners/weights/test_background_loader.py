"""Background loading: started once, shared, retried, and released when unloaded."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import pytest

from runners.errors import LoadError
from runners.weights.background_loader import BackgroundLoader


class Network:
    """Stands for weights; as a variant it has read the LoRAs in `names`."""

    def __init__(self) -> None:
        self.loras = self
        self.names: list[str] = []


class FakeModelCache:
    """Loads when the gate opens; `broken` makes loads fail."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.broken = False
        self.loads = 0
        self.variants: dict[str, Any] = {}
        self.controlnets: dict[str, Any] = {}
        self.eviction_blocked = False

    def touch(self, model: str, controlnet: str, loras: Sequence[str]) -> tuple[Any, Any]:
        variant = self.variants.get(model)
        if variant is not None and not set(loras) <= set(variant.names):
            variant = None
        return variant, self.controlnets.get(controlnet)

    def load_variant(self, name: str, beside: Sequence[str]) -> Any:
        assert self.gate.wait(60)
        self.loads += 1
        if self.broken:
            raise LoadError(f"model {name}: its unet could not be loaded")
        return self.variants.setdefault(name, Network())

    def load_loras(self, model: str, names: Sequence[str], beside: Sequence[str]) -> None:
        self.variants[model].names += names

    def load_controlnet(self, name: str, beside: Sequence[str]) -> Any:
        return self.controlnets.setdefault(name, Network())


@pytest.fixture
def model_cache() -> FakeModelCache:
    return FakeModelCache()


@pytest.fixture
def loader(model_cache: FakeModelCache) -> BackgroundLoader:
    fake: Any = model_cache
    return BackgroundLoader(fake)


def test_request_starts_one_load_and_reports_its_end(
    model_cache: FakeModelCache,
) -> None:
    changed = threading.Event()
    fake: Any = model_cache
    loader = BackgroundLoader(fake, changed.set)
    assert loader.get_or_start_load("base", "depth") is None
    assert loader.get_or_start_load("base", "depth") is None
    joined = loader.load("base", "depth")
    model_cache.gate.set()
    assert changed.wait(60)
    joined.result(60)
    assert loader.get_or_start_load("base", "depth") is not None
    assert model_cache.loads == 1


def test_loras_are_read_before_a_request_that_names_them_starts(
    loader: BackgroundLoader, model_cache: FakeModelCache
) -> None:
    model_cache.gate.set()
    loader.load("base", "depth").result(60)
    assert loader.get_or_start_load("base", "depth") is not None
    assert loader.get_or_start_load("base", "depth", ["drone"]) is None
    loader.load("base", "depth", ["drone"]).result(60)
    assert loader.get_or_start_load("base", "depth", ["drone"]) is not None
    assert model_cache.variants["base"].names == ["drone"]


def test_load_failure_is_raised_once_then_retried(
    loader: BackgroundLoader, model_cache: FakeModelCache
) -> None:
    model_cache.gate.set()
    model_cache.broken = True
    assert loader.get_or_start_load("base", "depth") is None
    with pytest.raises(LoadError):
        loader.load("base", "depth").result(60)
    with pytest.raises(LoadError, match="unet"):
        loader.get_or_start_load("base", "depth")
    model_cache.broken = False
    assert loader.get_or_start_load("base", "depth") is None
    loader.load("base", "depth").result(60)
    assert loader.get_or_start_load("base", "depth") is not None


def test_unloaded_variant_is_freed_and_can_be_reloaded(
    loader: BackgroundLoader, model_cache: FakeModelCache
) -> None:
    model_cache.gate.set()
    assert loader.get_or_start_load("base", "depth") is None
    loader.load("base", "depth").result(60)
    held = weakref.ref(model_cache.variants["base"])
    model_cache.variants.clear()
    gc.collect()
    assert held() is None
    assert loader.get_or_start_load("base", "depth") is None
    loader.load("base", "depth").result(60)
    assert loader.get_or_start_load("base", "depth") is not None
