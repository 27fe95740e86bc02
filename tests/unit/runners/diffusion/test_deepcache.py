"""DeepCache: full steps, correct cached steps, and shared batches."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from msgspec.structs import replace

import runners.engine.engine
from benchmarks.flops import installation_job
from common.protocol import LoraWeight
from runners.device import Device
from runners.diffusion.batch import BatchCache
from runners.diffusion.conditioning import ConditioningBuilder
from runners.diffusion.deepcache import check_supported, is_cached_step
from runners.diffusion.denoise import predict_noise
from runners.diffusion.sample import Sample
from runners.engine.engine import Engine
from runners.errors import DeepCacheError
from testing.flop_count import CountedEngine, sdxl
from testing.workbench import DEVICE, Listener, demo_networks
from tests.support.runner.jobs import (
    await_end,
    await_freed,
    drain,
    finish,
    job,
    paint,
    pictures,
)


def make_sample(**changes: Any) -> Sample:
    made = job("a", enable_deepcache=True, **changes)
    networks = demo_networks("base")
    with torch.inference_mode():
        conditioning = ConditioningBuilder(DEVICE).build(made, *networks)
        return Sample(made, 0, *networks, conditioning)


def test_the_first_and_the_last_step_are_whole() -> None:
    assert [is_cached_step(step, 6) for step in range(6)] == [
        False,
        True,
        False,
        True,
        False,
        False,
    ]
    assert [is_cached_step(step, 5) for step in range(5)] == [False, True, False, True, False]
    assert not is_cached_step(0, 1)
    assert [is_cached_step(step, 2) for step in range(2)] == [False, False]


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_cached_step_with_exact_features_equals_full_step(
    guidance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the deep features are exact, and nothing may differ."""
    sample = make_sample(steps=4, guidance_scale=guidance)
    (whole,) = predict_noise([sample], DEVICE)
    assert sample.deep_features is not None
    assert len(sample.deep_features.features) == sample.batch_rows
    assert sample.deep_features.residuals
    monkeypatch.setattr("runners.diffusion.sample.is_cached_step", lambda *_: True)
    monkeypatch.delattr(type(sample.variant.unet), "forward")
    (again,) = predict_noise([sample], DEVICE)
    torch.testing.assert_close(again, whole, atol=1e-5, rtol=1e-4)


def test_a_picture_is_near_the_whole_one_and_not_the_same() -> None:
    settings = {"steps": 8, "guidance_scale": 2.0, "loras": (LoraWeight("drone", 0.8),)}
    (whole,) = paint(job("whole", **settings))
    (cached,) = paint(job("cached", enable_deepcache=True, **settings))
    difference = np.abs(whole.astype(int) - cached.astype(int))
    assert difference.max() > 1
    assert difference.mean() < 20


def test_batching_does_not_change_cached_images(engine: Engine, batches: list[list[str]]) -> None:
    """With others at another phase, and with requests that do without."""
    settings = {"steps": 6, "guidance_scale": 2.0}
    first, second = (
        job(n, seed=s, enable_deepcache=True, **settings) for n, s in (("a", 1), ("b", 2))
    )
    plain = job("plain", seed=3, **settings)
    listeners = {each.request_id: Listener() for each in (first, second, plain)}
    engine.submit(first, listeners["a"])
    engine.tick()
    engine.submit(second, listeners["b"])
    engine.submit(plain, listeners["plain"])
    finish(engine)
    assert any(len(batch) > 1 for batch in batches)
    for each in (first, second, plain):
        (alone,) = paint(each)
        shown = pictures(listeners[each.request_id])[0]
        assert np.abs(shown.astype(int) - alone.astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("window", "rows", "cached"),
    [
        # The conditional rows of the features serve the step after guidance has ended.
        ((0.0, 0.5), [2, 2, 2, 1, 1, 1], {1, 3}),
        # Where guidance begins, the unconditional row has no features, so the step is whole.
        ((0.5, 1.0), [1, 1, 1, 2, 2, 2], {1}),
    ],
)
def test_guidance_begins_and_ends_between_cached_steps(
    window: tuple[float, float], rows: list[int], cached: set[int]
) -> None:
    start, end = window
    sample = make_sample(steps=6, guidance_scale=3.0, guidance_start=start, guidance_end=end)
    seen, reused = [], set()
    with torch.inference_mode():
        while not sample.done:
            seen.append(sample.batch_rows)
            if sample.reuses_features:
                reused.add(sample.index)
            (prediction,) = predict_noise([sample], DEVICE)
            sample.advance(prediction)
    assert seen == rows
    assert reused == cached


def test_cached_step_after_guidance_takes_conditional_features(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guided = make_sample(steps=4, guidance_scale=3.0)
    predict_noise([guided], DEVICE)
    plain = make_sample(steps=4, guidance_scale=1.0)
    (whole,) = predict_noise([plain], DEVICE)
    assert guided.deep_features is not None
    plain.deep_features = guided.deep_features
    monkeypatch.setattr("runners.diffusion.sample.is_cached_step", lambda *_: True)
    (cached,) = predict_noise([plain], DEVICE)
    torch.testing.assert_close(cached, whole, atol=1e-5, rtol=1e-4)


def test_disabled_deepcache_keeps_no_features() -> None:
    plain = make_sample(steps=3)
    plain.job = replace(plain.job, enable_deepcache=False)
    predict_noise([plain], DEVICE)
    assert plain.deep_features is None


def test_a_unet_of_another_shape_is_refused_by_name() -> None:
    other = SimpleNamespace(down_blocks=[torch.nn.Identity()], up_blocks=[torch.nn.Identity()])
    with pytest.raises(DeepCacheError, match="enable_deepcache: not offered by model odd"):
        check_supported(other, "odd")
    check_supported(demo_networks("base")[0].unet, "base")


@pytest.mark.slow
def test_deepcache_saves_operations_at_sdxl_size() -> None:
    engine = CountedEngine(*sdxl("lightning", "small"))
    plain = replace(installation_job(256, loras=()), steps=3, guidance_scale=1.0)
    whole = engine.operations(plain)
    # One of three steps, and the decoder as ever.
    assert engine.operations(replace(plain, enable_deepcache=True)) < 0.85 * whole


def test_the_engine_frees_the_features(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[weakref.ref[torch.Tensor]] = []

    def spy(samples: Sequence[Sample], device: Device, batches: BatchCache) -> list[torch.Tensor]:
        predictions = predict_noise(samples, device, batches)
        for sample in samples:
            assert sample.deep_features is not None
            kept.append(weakref.ref(sample.deep_features.features))
        return predictions

    monkeypatch.setattr(runners.engine.engine, "predict_noise", spy)
    listener = Listener()
    engine.submit(job("a", steps=4, enable_deepcache=True), listener)
    engine.tick()
    assert [features() is None for features in kept] == [False]
    drain(engine)
    await_end(listener)
    await_freed(*kept)


def test_cached_steps_are_excluded_from_the_cost_model(engine: Engine) -> None:
    engine.submit(job("a", steps=6, enable_deepcache=True), Listener())
    with mock.patch.object(engine.cost, "observe_step") as observe:
        drain(engine)
    assert observe.call_count == 4
