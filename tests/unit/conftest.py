"""Engines that tests tick themselves, and examples that may take any time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import HealthCheck, settings

import runners.engine.engine
from runners.device import Device
from runners.diffusion.batch import BatchCache
from runners.diffusion.denoise import predict_noise
from runners.diffusion.sample import Sample
from runners.engine.engine import Engine
from testing.workbench import make_engine
from tests.support.runner.jobs import TickingClock

settings.register_profile("any time", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any time")


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = make_engine(clock=TickingClock())
    yield made
    made.close()


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The request ids of every batch that is computed."""
    seen: list[list[str]] = []

    def spy(samples: Sequence[Sample], device: Device, batches: BatchCache) -> list[torch.Tensor]:
        seen.append([sample.job.request_id for sample in samples])
        return predict_noise(samples, device, batches)

    monkeypatch.setattr(runners.engine.engine, "predict_noise", spy)
    return seen
