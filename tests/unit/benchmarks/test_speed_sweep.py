"""Steps of a setting, as the engine runs them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.support.quality.speed_sweep import (
    CONTROL_END,
    MaskedJob,
    Quality,
    Setting,
    StepKind,
    pareto,
    sweep_settings,
)
from runners.diffusion.conditioning import ConditioningBuilder
from runners.diffusion.denoise import predict_noise
from runners.diffusion.sample import Sample
from testing.workbench import DEVICE, demo_networks, make_job


@pytest.mark.parametrize("mask", ["GGGGGG", "GG----", "--GG--", "-G-G-G", "------"])
@pytest.mark.parametrize("enable_deepcache", [False, True])
def test_steps_are_those_of_the_engine(mask: str, enable_deepcache: bool) -> None:
    setting = Setting(tuple(each == "G" for each in mask), enable_deepcache)
    plain = make_job(
        np.zeros((64, 64), np.uint8), model="lightning", steps=6, guidance_scale=2.0,
        control_guidance_end=CONTROL_END, enable_deepcache=enable_deepcache,
    )  # fmt: skip
    values = {name: getattr(plain, name) for name in plain.__struct_fields__}
    job = MaskedJob(**values, mask=setting.mask)
    networks = demo_networks("lightning")
    kinds: list[StepKind] = []
    with torch.inference_mode():
        conditioning = ConditioningBuilder(DEVICE).build(job, *networks)
        sample = Sample(job, 0, *networks, conditioning)
        while not sample.done:
            cached = sample.reuses_features
            kinds.append((sample.batch_rows, cached, not cached and sample.control_scale != 0))
            (prediction,) = predict_noise([sample], DEVICE)
            sample.advance(prediction)
    assert kinds == setting.step_kinds()


def test_the_sweep_has_every_mask_once() -> None:
    labels = [setting.label for setting in sweep_settings()]
    assert len(labels) == len(set(labels)) == 128
    assert Setting.of_window(6, 0.0, 0.35, enable_deepcache=True, decoder="tiny").label == (
        "GG---- deepcache tiny"
    )


def test_only_settings_without_a_better_cheaper_one_are_left() -> None:
    masks = [Setting((guided,)) for guided in (False, True)]
    good, worse = Quality(0.9, 1.0, 50.0), Quality(0.8, 1.0, 60.0)
    assert pareto([(masks[0], good), (masks[1], worse)]) == [(masks[0], good)]
    assert Quality(0.9, 0.5, 1.0).kept(Quality(1.0, 1.0, 1.0)) == 0.5
