"""Apple's GPU: the probe that selects MPS or the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.settings import Settings
from runners.device import CPU, Device, LaunchThrottle, memory_usage
from runners.server.mps_probe import (
    MAX_TOLERANCE,
    MPS,
    Pixels,
    available_devices,
    paints_like_the_cpu,
)
from testing.imports import store_at
from testing.workbench import demo_catalog

TWIN = Device(torch.device("cpu"), torch.float32)
COARSE = Device(torch.device("cpu"), torch.bfloat16)


@pytest.fixture
def on_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


@pytest.mark.parametrize(
    ("offset", "accepted"), [(0, True), (1, False), (MAX_TOLERANCE + 1, False)]
)
def test_a_picture_within_tolerance_is_accepted(offset: int, accepted: bool) -> None:
    def paint(device: Device) -> Pixels:
        picture = np.full((8, 8, 3), 100, np.uint8)
        return picture if device == CPU else picture + np.uint8(offset)

    assert paints_like_the_cpu(MPS, paint) is accepted


def test_one_wild_pixel_is_refused() -> None:
    def paint(device: Device) -> Pixels:
        picture = np.full((64, 64, 3), 100, np.uint8)
        picture[0, 0, 0] += 0 if device == CPU else MAX_TOLERANCE + 1
        return picture

    assert not paints_like_the_cpu(MPS, paint)


def test_a_device_that_lacks_an_operation_is_refused() -> None:
    def paint(device: Device) -> Pixels:
        raise NotImplementedError("aten::_upsample_bicubic2d_aa.out is not implemented for MPS")

    assert not paints_like_the_cpu(MPS, paint)


@pytest.mark.slow
@pytest.mark.parametrize(("candidate", "chosen"), [(TWIN, TWIN), (COARSE, CPU)])
def test_the_default_variant_is_the_probe(
    on_a_mac: None, demo_home: Path, candidate: Device, chosen: Device
) -> None:
    """With float32 on the CPU as the GPU, and with a precision that changes the picture."""
    with store_at(demo_home):
        assert available_devices(demo_catalog(), Settings(), candidate) == [chosen]


def test_where_mps_does_not_work_the_cpu_serves(on_a_mac: None, demo_home: Path) -> None:
    """torch says that MPS is there, and every use of it fails, as on this machine."""
    with store_at(demo_home):
        assert available_devices(demo_catalog(), Settings()) == [CPU]


def test_without_weights_nothing_is_probed(on_a_mac: None, tmp_path: Path) -> None:
    with store_at(tmp_path):
        assert available_devices(demo_catalog(), Settings()) == [CPU]


def test_mps_memory_is_reported_and_released(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    stand_ins: dict[str, Any] = {
        "empty_cache": lambda: calls.append("empty_cache"),
        "synchronize": lambda: calls.append("synchronize"),
        "current_allocated_memory": lambda: 3_000_000,
        "driver_allocated_memory": lambda: 5_000_000,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.mps, name, stand_in)
    assert memory_usage([MPS])[1] == {"allocated_mb": 3.0, "reserved_mb": 5.0}
    MPS.release_cache()
    LaunchThrottle(MPS).tick()
    assert calls == ["empty_cache", "synchronize"]
