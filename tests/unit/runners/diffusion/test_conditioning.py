"""Prompts and depth maps as tensors: equal to the reference, never cut, made once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from common.prompt_syntax import parse_prompt
from runners.diffusion.conditioning import ConditioningBuilder
from runners.diffusion.prompt_encoding import count_chunks, embed_prompt
from testing.workbench import DEVICE, demo_networks, make_job, reference_pipeline

DEPTH = np.arange(64 * 72, dtype=np.uint32).reshape(64, 72).astype(np.uint8)
LONG = " ".join(["pre-industrial valleys, aerial photography, ruins and forests"] * 30)


@pytest.mark.parametrize("negative", [None, "", "blurry, sketch"])
def test_short_prompts_equal_the_reference(negative: str | None) -> None:
    variant, _ = demo_networks("base")
    ours = embed_prompt(variant, "future solarpunk urban", negative, guided=True)
    embeds, negative_embeds, pooled, negative_pooled = reference_pipeline().encode_prompt(
        "future solarpunk urban", negative_prompt=negative, do_classifier_free_guidance=True
    )
    for mine, theirs in (
        (ours.embeds, embeds),
        (ours.pooled, pooled),
        (ours.negative_embeds, negative_embeds),
        (ours.negative_pooled, negative_pooled),
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


def test_a_long_prompt_is_encoded_whole() -> None:
    variant, _ = demo_networks("base")
    chunks = count_chunks(variant, parse_prompt(LONG))
    assert chunks > 2
    whole = embed_prompt(variant, LONG, None, guided=False)
    assert whole.embeds.shape[1] == 77 * chunks
    other = embed_prompt(variant, LONG + " future", None, guided=False)
    last = whole.embeds[:, -77:]
    assert other.embeds.shape == whole.embeds.shape
    assert (other.embeds[:, -77:] - last).abs().max() > 0
    torch.testing.assert_close(other.embeds[:, :77], whole.embeds[:, :77])


def test_prompt_and_negative_prompt_get_equal_lengths() -> None:
    variant, _ = demo_networks("base")
    for prompt, negative in ((LONG, "blurry"), ("hills", LONG)):
        embedding = embed_prompt(variant, prompt, negative, guided=True)
        assert embedding.negative_embeds is not None
        assert embedding.embeds.shape == embedding.negative_embeds.shape


def test_depth_becomes_a_picture_between_0_and_1() -> None:
    variant, controlnet = demo_networks("base")
    seen: list[torch.Tensor] = []

    class Spy(torch.nn.Module):
        def forward(self, picture: torch.Tensor) -> torch.Tensor:
            seen.append(picture)
            return picture

    conditioning = ConditioningBuilder(DEVICE).build(
        make_job(DEPTH), variant, replace(controlnet, hint=Spy())
    )
    (picture,) = seen
    assert picture.shape == (1, 3, 64, 72)
    np.testing.assert_allclose(picture[0, 1].numpy(), DEPTH / 255, atol=1e-6)
    assert conditioning.time_ids.tolist() == [[64, 72, 0, 0, 64, 72]]


def test_recent_prompts_are_kept_within_their_bytes() -> None:
    variant, controlnet = demo_networks("base")
    one = embed_prompt(variant, "hills", None, guided=True).bytes
    conditioner = ConditioningBuilder(DEVICE, cache_bytes=2 * one)

    def embeds(prompt: str) -> torch.Tensor:
        job = make_job(DEPTH, prompt=prompt)
        return conditioner.build(job, variant, controlnet).prompt.embeds

    first = embeds("hills")
    assert embeds("hills") is first
    embeds("valleys")
    assert embeds("hills") is first
    embeds("lakes")
    embeds("ridges")
    assert embeds("hills") is not first
    torch.testing.assert_close(embeds("hills"), first)
