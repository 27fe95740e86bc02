"""The GPUs that the runner's process sees under BentoML, and the engines that it gets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _bentoml_impl.server import allocator

from runners.cuda_allocator import set_allocator_default
from runners.device import Device
from runners.server.service import SDXLRunner


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> allocator.ResourceAllocator:
    """BentoML's allocator on a machine with four GPUs."""
    resources = {"cpu": 8.0, allocator.NVIDIA_GPU: [0, 1, 2, 3]}
    monkeypatch.setattr(allocator, "system_resources", lambda: resources)
    return allocator.ResourceAllocator()


def worker_environment(machine: allocator.ResourceAllocator) -> dict[str, str]:
    service: Any = SDXLRunner
    workers, environment = machine.get_worker_env(service, {service.name: service.config})
    assert workers == 1
    return dict(environment)


def test_one_process_sees_all_gpus(
    machine: allocator.ResourceAllocator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert worker_environment(machine) == {}
    monkeypatch.delenv("BENTOML_DISABLE_GPU_ALLOCATION")
    assert worker_environment(machine) == {"CUDA_VISIBLE_DEVICES": "0"}, (
        "the allocator's own choice"
    )


def test_operators_choice_of_gpus_holds(
    machine: allocator.ResourceAllocator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert worker_environment(machine) == {}


def test_allocator_grows_segments_unless_it_is_configured() -> None:
    environment: dict[str, str] = {}
    set_allocator_default(environment)
    assert environment == {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        environment = {name: "max_split_size_mb:128"}
        set_allocator_default(environment)
        assert environment == {name: "max_split_size_mb:128"}


def test_every_visible_gpu_gets_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    devices = Device.all("float16")
    assert [device.torch_device for device in devices] == [
        torch.device("cuda", i) for i in range(4)
    ]
    assert {device.dtype for device in devices} == {torch.float16}
