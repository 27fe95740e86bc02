"""Weights within a memory budget: eviction that changes no image."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from common.protocol import GenerateJob, LoraWeight
from models.store.inventory import LiveInventory
from runners.engine.engine import Engine
from runners.errors import LoadError
from runners.networks.pinned_weights import PinnedWeightCache
from runners.weights.background_loader import BackgroundLoader
from runners.weights.entry_keys import lora_key
from runners.weights.model_cache import ModelCache
from runners.weights.vram_budget import VramBudget, device_bytes, device_file_bytes
from testing.imports import store_at
from testing.workbench import DEVICE, Listener, demo_catalog
from tests.support.runner.jobs import job, paint, pictures

CONTROLNET = "sdxl_small"


@pytest.fixture(scope="module")
def shelf(demo_home: Path) -> Iterator[LiveInventory]:
    with store_at(demo_home):
        yield LiveInventory(demo_catalog())


def sum_device_bytes(shelf: LiveInventory, *models: str) -> int:
    """Of the variants together with the ControlNet, shared parts once."""
    entries = [shelf.inventory.models[name] for name in models]
    entries.append(shelf.inventory.controlnets[CONTROLNET])
    parts = {part.tag: part for entry in entries for part in entry.components.values()}
    return sum(device_bytes(DEVICE, part) for part in parts.values())


def make_residency(
    shelf: LiveInventory, budget_bytes: int | None, in_use: Callable[[], set[str]] = set
) -> ModelCache:
    budget = VramBudget(DEVICE, None if budget_bytes is None else budget_bytes / 1e9)
    return ModelCache(demo_catalog(), shelf, DEVICE, budget, in_use=in_use)


def ask(residency: ModelCache, *models: str) -> None:
    for model in models:
        residency.touch(model, CONTROLNET)
        residency.load_variant(model, beside=[CONTROLNET])
        residency.load_controlnet(CONTROLNET, beside=[model])


def test_unlimited_budget_evicts_nothing(shelf: LiveInventory) -> None:
    residency = make_residency(shelf, None)
    ask(residency, "base", "lightning", "hyper")
    assert set(residency.variants) == {"base", "lightning", "hyper"}
    assert residency.used_bytes >= sum_device_bytes(shelf, "base", "lightning", "hyper")


def test_further_variants_add_only_their_unet(shelf: LiveInventory) -> None:
    residency = make_residency(shelf, None)
    ask(residency, "base")
    one = residency.used_bytes
    unet = residency.resident_bytes["unet"]
    ask(residency, "lightning")
    assert residency.used_bytes - one == unet
    ask(residency, "hyper")
    assert residency.used_bytes - one == 2 * unet


def test_least_recently_used_variant_is_evicted(shelf: LiveInventory) -> None:
    bound = sum_device_bytes(shelf, "base", "lightning") + 10_000
    residency = make_residency(shelf, bound)
    ask(residency, "base", "lightning", "base", "hyper")
    assert set(residency.variants) == {"base", "hyper"}
    assert set(residency.controlnets) == {CONTROLNET}
    assert residency.used_bytes <= bound
    ask(residency, "lightning")
    assert set(residency.variants) == {"lightning", "hyper"}


def test_weights_in_use_are_never_evicted(shelf: LiveInventory) -> None:
    used: set[str] = set()
    bound = sum_device_bytes(shelf, "base", "lightning") + 10_000
    residency = make_residency(shelf, bound, lambda: set(used))
    ask(residency, "base", "lightning")
    used |= {"base", "lightning", CONTROLNET}
    loading = threading.Thread(target=ask, args=(residency, "hyper"))
    loading.start()
    deadline = time.monotonic() + 10
    while not residency.eviction_blocked:
        assert time.monotonic() < deadline
    assert set(residency.variants) == {"base", "lightning"}
    used.discard("lightning")
    loading.join(10)
    assert set(residency.variants) == {"base", "hyper"}
    assert not residency.eviction_blocked


def test_model_larger_than_the_budget_is_reported(shelf: LiveInventory) -> None:
    residency = make_residency(shelf, 1_000_000)
    with pytest.raises(LoadError, match=r"model base: its .* GB do not fit .*VRAM_BUDGET_GB"):
        residency.load_variant("base")
    assert "model base" in residency.errors


def test_estimator_is_counted_evicted_and_reloaded(shelf: LiveInventory) -> None:
    entry = shelf.inventory.depth_estimators["relief"]
    (needed,) = (device_bytes(DEVICE, part) for part in entry.components.values())
    used: set[str] = set()
    bound = sum_device_bytes(shelf, "base") + needed // 2
    residency = make_residency(shelf, bound, lambda: used)
    first = residency.load_estimator("relief")
    assert residency.resident_bytes["depth_estimator"] == residency.used_bytes
    assert abs(residency.used_bytes - needed) < 1000
    picture = np.arange(256 * 256 * 3, dtype=np.uint8).reshape(256, 256, 3)
    depth = first.estimate(picture)
    ask(residency, "base")
    assert not residency.estimators
    assert "depth_estimator" not in residency.resident_bytes
    used.add("depth_estimator relief")
    again = residency.load_estimator("relief")
    assert set(residency.estimators) == {"relief"}
    assert not residency.variants
    np.testing.assert_array_equal(again.estimate(picture), depth)


def lora_bytes(shelf: LiveInventory, name: str) -> int:
    (file,) = shelf.inventory.loras[name].components["lora"].path.glob("*.safetensors")
    return device_file_bytes(DEVICE, file)


def test_loras_are_evicted_with_their_variant(shelf: LiveInventory) -> None:
    bound = sum_device_bytes(shelf, "base") + lora_bytes(shelf, "drone") + 10_000
    residency = make_residency(shelf, bound)
    ask(residency, "base")
    residency.load_loras("base", ["drone"])
    assert residency.resident_bytes["lora"] > 0
    ask(residency, "lightning")
    assert residency.resident_bytes["lora"] == 0
    assert residency.variants["lightning"].loras.names == ()


def test_lora_makes_room_by_evicting_the_longest_unused_one(shelf: LiveInventory) -> None:
    names = ["drone", "experimance"]
    used: set[str] = set()
    room = max(lora_bytes(shelf, name) for name in names)
    bound = sum_device_bytes(shelf, "base") + room + 10_000
    residency = make_residency(shelf, bound, lambda: {"base", CONTROLNET, *used})
    ask(residency, "base")
    manager = residency.variants["base"].loras
    residency.load_loras("base", names[:1])
    with manager.activate([LoraWeight("drone", 0.5)]):
        pass
    assert manager.set_bytes > 0
    residency.load_loras("base", names[1:])
    assert manager.names == ("experimance",)
    assert manager.set_bytes == 0
    assert residency.used_bytes <= bound
    assert residency.touch("base", CONTROLNET, ["drone"])[0] is None
    assert residency.touch("base", CONTROLNET, ["experimance"])[0] is not None
    used.add(lora_key("base", "experimance"))
    loading = threading.Thread(target=residency.load_loras, args=("base", names[:1]))
    loading.start()
    deadline = time.monotonic() + 10
    while not residency.eviction_blocked:
        assert time.monotonic() < deadline
    assert manager.names == ("experimance",)
    used.clear()
    loading.join(10)
    assert manager.names == ("drone",)


def test_lora_larger_than_the_budget_is_reported(shelf: LiveInventory) -> None:
    residency = make_residency(shelf, sum_device_bytes(shelf, "base") + 10_000)
    ask(residency, "base")
    with pytest.raises(LoadError, match=r"lora drone: its .* GB do not fit .*VRAM_BUDGET_GB"):
        residency.load_loras("base", ["drone"], beside=[CONTROLNET])
    assert residency.variants["base"].loras.names == ()


def test_pictures_are_the_same_where_one_lora_fits(shelf: LiveInventory) -> None:
    """Requests with two LoRAs take turns; one that runs never loses a LoRA."""
    sizes = [lora_bytes(shelf, name) for name in ("drone", "experimance")]
    bound = sum_device_bytes(shelf, "base") + max(sizes) + 10_000
    loras = [(LoraWeight(name, 0.7),) for name in ("drone", "experimance") * 2]
    jobs = [job(f"{n}", seed=n, loras=each) for n, each in enumerate(loras)]
    check_pictures(shelf, bound, jobs)


def test_pictures_under_a_tight_budget_are_the_same(shelf: LiveInventory) -> None:
    """Three variants take turns where one fits; nobody waits for ever, nothing changes."""
    bound = sum_device_bytes(shelf, "base") + 2_000_000
    models = ["base", "lightning", "base", "hyper", "lightning", "base"]
    jobs = [job(f"{n}-{model}", model=model, seed=n) for n, model in enumerate(models)]
    residency = check_pictures(shelf, bound, jobs)
    assert len(residency.variants) == 1


def check_pictures(shelf: LiveInventory, bound: int, jobs: list[GenerateJob]) -> ModelCache:
    """Paint the jobs at once within a budget, and compare each with its picture painted alone."""
    residency = make_residency(shelf, bound, lambda: engine.weights_in_use())
    loader = BackgroundLoader(residency, lambda: engine.wake())
    engine = Engine(loader, DEVICE)
    listeners = [Listener() for _ in jobs]
    engine.start()
    for each, listener in zip(jobs, listeners, strict=True):
        engine.submit(each, listener)
    deadline = time.monotonic() + 60
    while engine.load()[:2] != (0, 0):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    engine.close()
    loader.close()
    for each, listener in zip(jobs, listeners, strict=True):
        (alone,) = paint(each)
        assert np.abs(pictures(listener)[0].astype(int) - alone.astype(int)).max() <= 1
    return residency


def test_copies_are_kept_within_their_room(shelf: LiveInventory) -> None:
    (file,) = shelf.inventory.models["base"].components["unet"].path.glob("*.safetensors")
    store = PinnedWeightCache(DEVICE)
    first = store.read(file, torch.float32)
    assert store.bytes == sum(tensor.nbytes for tensor in first.values())
    again = store.read(file, torch.float32)
    assert all(again[name] is tensor for name, tensor in first.items())
    full = PinnedWeightCache(DEVICE, room=10)
    assert set(full.read(file, torch.float32)) == set(first)
    assert full.bytes == 0
