"""Decoding of latents to pixels, and previews."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from common.protocol import Step
from runners.diffusion.conditioning import ConditioningBuilder
from runners.diffusion.preview import start_preview
from runners.diffusion.sample import Sample
from runners.diffusion.vae import decode_latents
from runners.engine.engine import EngineConfig
from runners.networks.sdxl import SdxlModel
from testing.workbench import DEVICE, Listener, demo_networks, make_engine, make_job
from tests.support.runner.jobs import DEPTH, finish, job, pictures

LATENTS = torch.randn((1, 4, 8, 12), generator=torch.Generator().manual_seed(4))


def make_sample(variant: SdxlModel, depth: np.ndarray) -> Sample:
    _, controlnet = demo_networks("base")
    painted = make_job(depth, steps=2)
    conditioning = ConditioningBuilder(DEVICE).build(painted, variant, controlnet)
    return Sample(painted, 0, variant, controlnet, conditioning)


def test_tiny_decoder_takes_scaled_latents_like_diffusers() -> None:
    variant, _ = demo_networks("base")
    with torch.inference_mode():
        reference = variant.tiny_decoder.decode(LATENTS).sample[0].permute(1, 2, 0)
    expected = ((reference / 2 + 0.5).clamp(0, 1) * 255).round().numpy()
    np.testing.assert_array_equal(decode_latents(LATENTS, variant, "tiny"), expected)
    assert (decode_latents(LATENTS, variant) != expected).any()


@pytest.mark.parametrize(
    ("size", "shown"), [((64, 72), (64, 72)), ((1024, 768), (512, 384)), ((256, 1024), (128, 512))]
)
def test_previews_have_512_pixels_at_most(size: tuple[int, int], shown: tuple[int, int]) -> None:
    variant, _ = demo_networks("base")
    sample = make_sample(variant, np.full(size, 128, np.uint8))
    transfer = start_preview(sample, torch.zeros_like(sample.latents))
    assert transfer is not None
    assert transfer.wait().shape == (*shown, 3)


def test_preview_requires_a_tiny_decoder() -> None:
    bare = replace(demo_networks("base")[0], tiny_decoder=None)
    sample = make_sample(bare, DEPTH)
    assert start_preview(sample, torch.zeros_like(sample.latents)) is None


def test_the_last_preview_shows_the_finished_picture() -> None:
    engine = make_engine(EngineConfig(preview_interval=0))
    listener = Listener()
    engine.submit(job("seen", steps=4, previews=True, decoder="tiny"), listener)
    finish(engine)
    last = [event for event in listener.events if isinstance(event, Step)][-1]
    shown = np.asarray(Image.open(io.BytesIO(last.preview)), float)
    assert np.abs(shown - pictures(listener)[0]).mean() < 8
