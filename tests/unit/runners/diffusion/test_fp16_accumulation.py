"""The switch of sums in float16, and the steps that must do without."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from runners.diffusion import fp16_accumulation
from runners.diffusion.conditioning import ConditioningBuilder
from runners.diffusion.denoise import predict_noise
from runners.diffusion.sample import Sample
from testing.workbench import DEVICE, demo_networks
from tests.support.runner.jobs import job


@pytest.fixture(autouse=True)
def _switched_on() -> Iterator[None]:
    before = fp16_accumulation.is_enabled()
    fp16_accumulation.enable(True)
    yield
    fp16_accumulation.enable(before)


@pytest.fixture
def sample() -> Sample:
    made = job("a", steps=3, scheduler="euler_a", guidance_scale=2.0)
    networks = demo_networks("base")
    with torch.inference_mode():
        return Sample(made, 0, *networks, ConditioningBuilder(DEVICE).build(made, *networks))


def advance(sample: Sample) -> list[bool]:
    """Run all steps; return whether the UNet ran with sums in float16 in each."""
    seen: list[bool] = []
    unet = sample.variant.unet
    handle = unet.register_forward_pre_hook(lambda *_: seen.append(fp16_accumulation.is_enabled()))
    with torch.inference_mode():
        while not sample.done:
            (prediction,) = predict_noise([sample], DEVICE)
            sample.advance(prediction)
    handle.remove()
    return seen


def test_a_restarted_sample_repeats_its_steps_with_exact_sums(sample: Sample) -> None:
    key = sample.group_key
    assert advance(sample) == [True] * 3
    first = sample.latents
    sample.restart()
    assert sample.group_key != key, "it shares no step with samples of other sums"
    assert advance(sample) == [False] * 3
    # Sums in float16 do not exist on a CPU, so the results are equal.
    assert torch.equal(sample.latents, first)
    assert fp16_accumulation.is_enabled()


def test_the_switch_is_put_back_after_an_error(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("broken")

    sample.restart()
    monkeypatch.setattr(sample.variant.unet, "forward", broken)
    with pytest.raises(ValueError, match="broken"):
        predict_noise([sample], DEVICE)
    assert fp16_accumulation.is_enabled()
