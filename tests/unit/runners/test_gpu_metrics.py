"""Metrics of downloads, loads and the GPU."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from models.sources.base import parse_source
from models.sources.progress import Progress
from models.store.inventory import Inventory
from models.store.store import CatalogEntry, Component
from runners.device import Device, GpuUtilization
from runners.errors import LoadError
from runners.metrics import DownloadMeter
from runners.weights.model_cache import ModelCache
from testing.workbench import CONTROLNET, DEVICE, WEIGHTS, component_folders, demo_catalog
from tests.support.metric_delta import Growth
from tests.support.runner.jobs import Clock

GPU = Device(torch.device("cuda", 0), torch.float16)


def entry(kind: str, name: str, folders: dict[str, Path]) -> CatalogEntry:
    parts = {part: Component(part, f"{part}:{path}", path, 0) for part, path in folders.items()}
    section: Any = kind
    return CatalogEntry(section, name, f"{kind}:{name}", "0", parts)


@pytest.fixture
def model_cache(tmp_path: Path) -> ModelCache:
    catalog = demo_catalog()
    models = {n: entry("models", n, component_folders(catalog, n)) for n in ("base", "lightning")}
    controlnets = {
        CONTROLNET: entry("controlnets", CONTROLNET, {"controlnet": WEIGHTS / "controlnet"})
    }
    file = Path(parse_source(catalog.loras["drone"].source, catalog.folder).path)
    (tmp_path / file.name).symlink_to(file)
    loras = {"drone": entry("loras", "drone", {"lora": tmp_path})}
    inventory = Inventory(models, controlnets, loras)
    live_inventory: Any = SimpleNamespace(inventory=inventory)
    return ModelCache(catalog, live_inventory, DEVICE)


def test_resident_bytes_count_shared_weights_once(
    model_cache: ModelCache,
) -> None:
    assert model_cache.resident_bytes == {}
    variant = model_cache.load_variant("base")
    unet = sum(p.nbytes for p in variant.unet.parameters())
    first = model_cache.resident_bytes
    assert first["unet"] == unet
    other = model_cache.load_variant("lightning")
    assert variant.text_encoders[0] is other.text_encoders[0]
    second = model_cache.resident_bytes
    assert second["unet"] == unet + sum(p.nbytes for p in other.unet.parameters())
    assert second["text_encoder"] == first["text_encoder"]
    model_cache.load_loras("base", ["drone"])
    assert 0 < model_cache.resident_bytes["lora"] < unet
    model_cache.unload_variant("lightning")
    model_cache.unload_variant("base")
    assert model_cache.resident_bytes == {}


def test_a_load_is_timed_once(model_cache: ModelCache) -> None:
    grown = Growth()
    for _ in range(2):
        model_cache.load_variant("base")
        model_cache.load_controlnet(CONTROLNET)
        model_cache.load_loras("base", ["drone"])
    for kind, name in (("model", "base"), ("controlnet", CONTROLNET), ("lora", "drone")):
        assert grown.of("load_seconds_count", kind=kind, name=name) == 1
        assert grown.of("load_seconds_sum", kind=kind, name=name) > 0


def test_a_failed_load_is_counted_and_not_timed(
    model_cache: ModelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise OSError("the disk")

    monkeypatch.setattr("runners.weights.component_cache.load_component", broken)
    grown = Growth()
    with pytest.raises(LoadError):
        model_cache.load_variant("base")
    assert grown.of("load_failures_total", kind="model", name="base") == 1
    assert grown.of("load_seconds_count", kind="model", name="base") == 0
    assert model_cache.resident_bytes == {}


def test_download_counts_bytes_and_times_whole_files() -> None:
    clock = Clock()
    progress = Progress(DownloadMeter(clock))
    grown = Growth()
    progress.begin("gs://bucket/unet", 100, there=40)
    clock.now += 3
    progress.advance("gs://bucket/unet", 50)
    assert grown.of("download_bytes_total", scheme="gs") == 50
    assert grown.of("download_seconds_count", scheme="gs") == 0
    clock.now += 4
    progress.advance("gs://bucket/unet", 10)
    progress.mark("gs://bucket/unet", "verifying")
    assert grown.of("download_bytes_total", scheme="gs") == 60
    assert grown.of("download_seconds_count", scheme="gs") == 1
    assert grown.of("download_seconds_sum", scheme="gs") == 7
    progress.begin("hf://a/b", 7, there=7)
    progress.mark("hf://a/b", "verifying")
    assert grown.of("download_seconds_count", scheme="hf") == 0


def test_gpu_utilisation_is_polled_at_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []

    def utilization(device: torch.device) -> int:
        asked.append(device)
        return 73

    monkeypatch.setattr("torch.cuda.utilization", utilization)
    clock = Clock()
    load = GpuUtilization(GPU, clock)
    for _ in range(5):
        assert load.utilization() == 0.73
        clock.now += 1
    assert asked == [GPU.torch_device] * 3


def test_unsupported_utilisation_is_not_polled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    def utilization(device: torch.device) -> int:
        nonlocal asked
        asked += 1
        raise RuntimeError("Not Supported")

    monkeypatch.setattr("torch.cuda.utilization", utilization)
    clock = Clock()
    load = GpuUtilization(GPU, clock)
    for _ in range(3):
        assert load.utilization() is None
        clock.now += 10
    assert asked == 1
    assert GpuUtilization(DEVICE, clock).utilization() is None
    assert asked == 1
