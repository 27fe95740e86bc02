"""Weights within a memory budget: eviction that changes no image."""

from __future__ import annotations

import gc
import threading
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
from runners.networks.weight_upload import WeightUploader
from runners.weights.background_loader import BackgroundLoader
from runners.weights.entry_keys import lora_key
from runners.weights.model_cache import ModelCache
from runners.weights.vram_budget import VramBudget, device_bytes, device_file_bytes
from runners.weights.working_copies import mergeable_bytes
from testing.imports import store_at
from testing.workbench import DEVICE, Listener, demo_catalog, demo_networks
from tests.support.runner.jobs import job, paint, pictures
from tests.support.waiting import wait_until

CONTROLNET = "sdxl_small"


@pytest.fixture(scope="module")
def live_inventory(demo_home: Path) -> Iterator[LiveInventory]:
    with store_at(demo_home):
        yield LiveInventory(demo_catalog())


def sum_device_bytes(live_inventory: LiveInventory, *models: str) -> int:
    """Of the variants together with the ControlNet, shared parts once."""
    entries = [live_inventory.inventory.models[name] for name in models]
    entries.append(live_inventory.inventory.controlnets[CONTROLNET])
    parts = {part.tag: part for entry in entries for part in entry.components.values()}
    return sum(device_bytes(DEVICE, part) for part in parts.values())


def make_model_cache(
    live_inventory: LiveInventory,
    budget_bytes: int | None,
    in_use: Callable[[], set[str]] = set,
    next_in_line: Callable[[], set[str]] = set,
) -> ModelCache:
    budget = VramBudget(DEVICE, None if budget_bytes is None else budget_bytes / 1e9)
    return ModelCache(
        demo_catalog(), live_inventory, DEVICE, budget, in_use=in_use, next_in_line=next_in_line
    )


def ask(model_cache: ModelCache, *models: str) -> None:
    for model in models:
        model_cache.touch(model, CONTROLNET)
        model_cache.load_variant(model, beside=[CONTROLNET])
        model_cache.load_controlnet(CONTROLNET, beside=[model])


def test_unlimited_budget_evicts_nothing(live_inventory: LiveInventory) -> None:
    model_cache = make_model_cache(live_inventory, None)
    ask(model_cache, "base", "lightning", "hyper")
    assert set(model_cache.variants) == {"base", "lightning", "hyper"}
    assert model_cache.used_bytes >= sum_device_bytes(live_inventory, "base", "lightning", "hyper")


def test_further_variants_add_only_their_unet(live_inventory: LiveInventory) -> None:
    model_cache = make_model_cache(live_inventory, None)
    ask(model_cache, "base")
    one = model_cache.used_bytes
    unet = model_cache.resident_bytes["unet"]
    ask(model_cache, "lightning")
    assert model_cache.used_bytes - one == unet
    ask(model_cache, "hyper")
    assert model_cache.used_bytes - one == 2 * unet


def test_least_recently_used_variant_is_evicted(live_inventory: LiveInventory) -> None:
    bound = sum_device_bytes(live_inventory, "base", "lightning") + 10_000
    model_cache = make_model_cache(live_inventory, bound)
    ask(model_cache, "base", "lightning", "base", "hyper")
    assert set(model_cache.variants) == {"base", "hyper"}
    assert set(model_cache.controlnets) == {CONTROLNET}
    assert model_cache.used_bytes <= bound
    ask(model_cache, "lightning")
    assert set(model_cache.variants) == {"lightning", "hyper"}


def test_loaded_weights_stay_for_the_next_request(live_inventory: LiveInventory) -> None:
    wanted = {"base", CONTROLNET}
    bound = sum_device_bytes(live_inventory, "base", "lightning") + 10_000
    model_cache = make_model_cache(live_inventory, bound, next_in_line=lambda: wanted)
    ask(model_cache, "base", "lightning")
    model_cache.touch("lightning", CONTROLNET)
    ask(model_cache, "hyper")
    assert set(model_cache.variants) == {"base", "hyper"}, "the longest unused is next in line"
    wanted.add("lora base drone")
    ask(model_cache, "hyper", "lightning")
    assert set(model_cache.variants) == {"hyper", "lightning"}, "it cannot start as it is"


def test_weights_in_use_are_never_evicted(live_inventory: LiveInventory) -> None:
    used: set[str] = set()
    bound = sum_device_bytes(live_inventory, "base", "lightning") + 10_000
    model_cache = make_model_cache(live_inventory, bound, lambda: set(used))
    ask(model_cache, "base", "lightning")
    used |= {"base", "lightning", CONTROLNET}
    loading = threading.Thread(target=ask, args=(model_cache, "hyper"))
    loading.start()
    wait_until(lambda: model_cache.eviction_blocked)
    assert set(model_cache.variants) == {"base", "lightning"}
    used.discard("lightning")
    loading.join(60)
    assert set(model_cache.variants) == {"base", "hyper"}
    assert not model_cache.eviction_blocked


def test_model_larger_than_the_budget_is_reported(live_inventory: LiveInventory) -> None:
    model_cache = make_model_cache(live_inventory, 1_000_000)
    with pytest.raises(LoadError, match=r"model base: its .* GB do not fit .*VRAM_BUDGET_GB"):
        model_cache.load_variant("base")
    assert "model base" in model_cache.errors


def test_estimator_is_counted_evicted_and_reloaded(live_inventory: LiveInventory) -> None:
    entry = live_inventory.inventory.depth_estimators["relief"]
    (needed,) = (device_bytes(DEVICE, part) for part in entry.components.values())
    used: set[str] = set()
    bound = sum_device_bytes(live_inventory, "base") + needed // 2
    model_cache = make_model_cache(live_inventory, bound, lambda: used)
    first = model_cache.load_estimator("relief")
    assert model_cache.resident_bytes["depth_estimator"] == model_cache.used_bytes
    assert abs(model_cache.used_bytes - needed) < 1000
    picture = np.arange(256 * 256 * 3, dtype=np.uint8).reshape(256, 256, 3)
    depth = first.estimate(picture)
    ask(model_cache, "base")
    assert not model_cache.estimators
    assert "depth_estimator" not in model_cache.resident_bytes
    used.add("depth_estimator relief")
    again = model_cache.load_estimator("relief")
    assert set(model_cache.estimators) == {"relief"}
    assert not model_cache.variants
    np.testing.assert_array_equal(again.estimate(picture), depth)


def lora_bytes(live_inventory: LiveInventory, name: str) -> int:
    (file,) = live_inventory.inventory.loras[name].components["lora"].path.glob("*.safetensors")
    return device_file_bytes(DEVICE, file)


def test_loras_are_evicted_with_their_variant(live_inventory: LiveInventory) -> None:
    bound = sum_device_bytes(live_inventory, "base") + lora_bytes(live_inventory, "drone") + 10_000
    model_cache = make_model_cache(live_inventory, bound)
    ask(model_cache, "base")
    model_cache.load_loras("base", ["drone"])
    assert model_cache.resident_bytes["lora"] > 0
    ask(model_cache, "lightning")
    assert model_cache.resident_bytes["lora"] == 0
    assert model_cache.variants["lightning"].loras.names == ()


def test_lora_makes_room_by_evicting_the_longest_unused_one(live_inventory: LiveInventory) -> None:
    names = ["drone", "experimance"]
    used: set[str] = set()
    room = max(lora_bytes(live_inventory, name) for name in names)
    bound = sum_device_bytes(live_inventory, "base") + room + 10_000
    model_cache = make_model_cache(live_inventory, bound, lambda: {"base", CONTROLNET, *used})
    ask(model_cache, "base")
    manager = model_cache.variants["base"].loras
    model_cache.load_loras("base", names[:1])
    with manager.activate([LoraWeight("drone", 0.5)]):
        pass
    assert manager.set_bytes > 0
    model_cache.load_loras("base", names[1:])
    assert manager.names == ("experimance",)
    assert manager.set_bytes == 0
    assert model_cache.used_bytes <= bound
    assert model_cache.touch("base", CONTROLNET, ["drone"])[0] is None
    assert model_cache.touch("base", CONTROLNET, ["experimance"])[0] is not None
    used.add(lora_key("base", "experimance"))
    loading = threading.Thread(target=model_cache.load_loras, args=("base", names[:1]))
    loading.start()
    wait_until(lambda: model_cache.eviction_blocked)
    assert manager.names == ("experimance",)
    used.clear()
    loading.join(60)
    assert manager.names == ("drone",)


def test_lora_larger_than_the_budget_is_reported(live_inventory: LiveInventory) -> None:
    model_cache = make_model_cache(
        live_inventory, sum_device_bytes(live_inventory, "base") + 10_000
    )
    ask(model_cache, "base")
    with pytest.raises(LoadError, match=r"lora drone: its .* GB do not fit .*VRAM_BUDGET_GB"):
        model_cache.load_loras("base", ["drone"], beside=[CONTROLNET])
    assert model_cache.variants["base"].loras.names == ()


def room_for_merging(live_inventory: LiveInventory) -> int:
    """Least budget in bytes with which LoRAs are merged."""
    found = live_inventory.inventory
    entries = [*found.depth_estimators.values()]
    estimator = max(
        sum(device_bytes(DEVICE, part) for part in entry.components.values()) for entry in entries
    )
    loras = sum(lora_bytes(live_inventory, name) for name in found.loras)
    unet = demo_networks("base")[0].unet
    return sum_device_bytes(live_inventory, "base") + estimator + loras + mergeable_bytes(unet)


def test_loras_are_merged_where_the_working_copy_fits(live_inventory: LiveInventory) -> None:
    room = room_for_merging(live_inventory)
    for bound, mode in ((None, "merged"), (room, "merged"), (room - 10_000, "low_rank")):
        model_cache = make_model_cache(live_inventory, bound)
        ask(model_cache, "base")
        assert model_cache.lora_modes == {"base": mode}
        model_cache.load_loras("base", ["drone", "experimance"])
        manager = model_cache.variants["base"].loras
        with manager.activate([LoraWeight("drone", 0.5)]):
            pass
        assert (model_cache.resident_bytes.get("working_copy", 0) > 0) == (mode == "merged")
        assert bound is None or model_cache.used_bytes <= bound


def test_the_mode_does_not_depend_on_what_else_is_resident(live_inventory: LiveInventory) -> None:
    """A variant that is loaded into a full budget evicts others rather than change its images."""
    room = room_for_merging(live_inventory)
    model_cache = make_model_cache(live_inventory, room)
    ask(model_cache, "lightning", "hyper", "base")
    model_cache.load_loras("base", ["drone", "experimance"], beside=[CONTROLNET])
    assert model_cache.lora_modes["base"] == "merged"
    assert model_cache.used_bytes <= room


def test_the_working_copy_is_freed_with_the_last_variant(live_inventory: LiveInventory) -> None:
    model_cache = make_model_cache(live_inventory, None)
    ask(model_cache, "base", "lightning")
    sizes = []
    for model in ("base", "lightning"):
        model_cache.load_loras(model, ["drone"])
        with model_cache.variants[model].loras.activate([LoraWeight("drone", 0.5)]):
            sizes.append(model_cache.resident_bytes["working_copy"])
    assert sizes[0] == sizes[1], "variants share it"
    assert model_cache.unload_variant("lightning")
    assert model_cache.resident_bytes["working_copy"] == sizes[0]
    assert model_cache.unload_variant("base")
    gc.collect()
    assert "working_copy" not in model_cache.resident_bytes


@pytest.mark.slow
def test_pictures_are_the_same_where_one_lora_fits(live_inventory: LiveInventory) -> None:
    """Requests with two LoRAs take turns; one that runs never loses a LoRA."""
    sizes = [lora_bytes(live_inventory, name) for name in ("drone", "experimance")]
    bound = sum_device_bytes(live_inventory, "base") + max(sizes) + 10_000
    loras = [(LoraWeight(name, 0.7),) for name in ("drone", "experimance") * 2]
    jobs = [job(f"{n}", seed=n, loras=each) for n, each in enumerate(loras)]
    check_pictures(live_inventory, bound, jobs)


@pytest.mark.slow
def test_pictures_under_a_tight_budget_are_the_same(live_inventory: LiveInventory) -> None:
    """Three variants take turns where one fits; nobody waits for ever, nothing changes."""
    bound = sum_device_bytes(live_inventory, "base") + 2_000_000
    models = ["base", "lightning", "base", "hyper", "lightning", "base"]
    jobs = [job(f"{n}-{model}", model=model, seed=n) for n, model in enumerate(models)]
    model_cache = check_pictures(live_inventory, bound, jobs)
    assert len(model_cache.variants) == 1


def check_pictures(
    live_inventory: LiveInventory, bound: int, jobs: list[GenerateJob]
) -> ModelCache:
    """Paint the jobs at once within a budget, and compare each with its picture painted alone."""
    model_cache = make_model_cache(
        live_inventory,
        bound,
        lambda: engine.weights_in_use(),
        lambda: engine.weights_wanted_next(),
    )
    loader = BackgroundLoader(model_cache, lambda: engine.wake())
    engine = Engine(loader, DEVICE)
    listeners = [Listener() for _ in jobs]
    for each, listener in zip(jobs, listeners, strict=True):
        engine.submit(each, listener)
    engine.start()
    wait_until(lambda: engine.load()[:2] == (0, 0), seconds=300)
    engine.close()
    loader.close()
    for each, listener in zip(jobs, listeners, strict=True):
        (alone,) = paint(each)
        assert np.abs(pictures(listener)[0].astype(int) - alone.astype(int)).max() <= 1
    return model_cache


def test_copies_are_kept_within_their_room(live_inventory: LiveInventory) -> None:
    (file,) = live_inventory.inventory.models["base"].components["unet"].path.glob("*.safetensors")
    store = PinnedWeightCache(WeightUploader(DEVICE))
    first = store.read(file, torch.float32)
    assert store.bytes == sum(tensor.nbytes for tensor in first.values())
    again = store.read(file, torch.float32)
    assert all(again[name] is tensor for name, tensor in first.items())
    full = PinnedWeightCache(WeightUploader(DEVICE), room=10)
    assert set(full.read(file, torch.float32)) == set(first)
    assert full.bytes == 0
