"""Text-encoder parts of LoRAs: equal to diffusers, and of no effect on other requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionXLControlNetPipeline
from safetensors.torch import load_file, save_file

from common.protocol import LoraWeight
from runners.diffusion.conditioning import ConditioningBuilder
from runners.diffusion.prompt_encoding import embed_prompt
from runners.diffusion.schedulers import build_scheduler
from runners.errors import AdapterError
from runners.networks.lora.adapter_file import read_adapter
from testing.weight_files.random_loras import lora_file
from testing.workbench import DEVICE, WEIGHTS, demo_networks, make_job, reference_arguments
from tests.support.runner.jobs import paint

PROMPT = "future solarpunk urban"
DEPTH = np.tile(np.arange(64, dtype=np.uint8), (64, 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("loras")
    variant, _ = demo_networks("base")
    for seed, style in enumerate(("kohya", "diffusers")):
        file = lora_file(
            path / f"text_{style}.safetensors", variant.unet, style, seed, 4, variant.text_encoders
        )
        variant.loras.add(file.stem, file)
    lora_file(path / "plain.safetensors", variant.unet, "kohya", 3, rank=4)
    variant.loras.add("plain", path / "plain.safetensors")
    return path


def pipeline_with(folder: Path, loras: dict[str, float]) -> Any:
    """diffusers' pipeline, with LoRAs loaded and weighted by its own functions."""
    made = StableDiffusionXLControlNetPipeline.from_pretrained(
        WEIGHTS,
        controlnet=ControlNetModel.from_pretrained(WEIGHTS / "controlnet", dtype=torch.float32),
        dtype=torch.float32,
        add_watermarker=False,
    )
    made.set_progress_bar_config(disable=True)
    for name in loras:
        made.load_lora_weights(folder, weight_name=f"{name}.safetensors", adapter_name=name)
    made.set_adapters(list(loras), list(loras.values()))
    return made


@pytest.mark.parametrize(
    "loras",
    [
        {"text_kohya": 0.8},
        {"text_diffusers": 1.0},
        {"text_kohya": 0.7, "text_diffusers": -0.4},
        {"text_kohya": 1.5, "plain": 0.5},
    ],
)
def test_embeddings_and_picture_equal_the_pipelines(folder: Path, loras: dict[str, float]) -> None:
    variant, _ = demo_networks("base")
    weights = tuple(LoraWeight(name, strength) for name, strength in loras.items())
    with variant.loras.activate_text(weights):
        ours = embed_prompt(variant, PROMPT, "blurry", guided=True)
    pipeline = pipeline_with(folder, loras)
    embeds, negative_embeds, pooled, negative_pooled = pipeline.encode_prompt(
        PROMPT, negative_prompt="blurry", do_classifier_free_guidance=True
    )
    for mine, theirs in (
        (ours.embeds, embeds),
        (ours.pooled, pooled),
        (ours.negative_embeds, negative_embeds),
        (ours.negative_pooled, negative_pooled),
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4)
    plain = embed_prompt(variant, PROMPT, "blurry", guided=True)
    assert (plain.embeds - ours.embeds).abs().max() > 1e-2
    assert (plain.pooled - ours.pooled).abs().max() > 1e-2

    job = make_job(
        DEPTH, prompt=PROMPT, negative_prompt="blurry", guidance_scale=3.0, steps=3, loras=weights
    )
    (picture,) = paint(job)
    pipeline.scheduler = build_scheduler(variant.spec.scheduler, "auto", None)
    (reference,) = pipeline(**reference_arguments([job]), output_type="np").images
    assert np.abs(picture / 255 - reference).max() < 1.5 / 255


def test_embeddings_are_cached_by_prompt_and_set(folder: Path) -> None:
    networks = demo_networks("base")
    builder = ConditioningBuilder(DEVICE)

    def embeds(*loras: LoraWeight) -> torch.Tensor:
        job = make_job(DEPTH, prompt=PROMPT, loras=loras)
        return builder.build(job, *networks).prompt.embeds

    strong, weak = LoraWeight("text_kohya", 1.0), LoraWeight("text_kohya", 0.5)
    plain = embeds()
    found = [embeds(strong), embeds(weak), embeds(LoraWeight("text_diffusers", 1.0))]
    assert len({each.numpy().tobytes() for each in (plain, *found)}) == 4
    assert embeds(strong) is found[0]
    assert embeds(weak) is found[1]
    assert embeds() is plain
    unet_only = LoraWeight("plain", 1.0)
    assert embeds(unet_only) is plain, "a LoRA without text parts needs no encoding of its own"
    assert embeds(strong, unet_only) is found[0]


def test_a_set_ends_with_its_prompt(folder: Path) -> None:
    variant, _ = demo_networks("base")
    plain = embed_prompt(variant, PROMPT, None, guided=False)
    with variant.loras.activate_text([LoraWeight("text_kohya", 1.0)]):
        embed_prompt(variant, PROMPT, None, guided=False)
    after = embed_prompt(variant, PROMPT, None, guided=False)
    assert torch.equal(plain.embeds, after.embeds)
    assert torch.equal(plain.pooled, after.pooled)
    # A variant with the same encoders.
    other, _ = demo_networks("lightning")
    with other.loras.activate_text([]):
        assert torch.equal(embed_prompt(other, PROMPT, None, guided=False).embeds, plain.embeds)


def test_weighted_prompts_get_the_set_too(folder: Path) -> None:
    variant, _ = demo_networks("base")
    results = []
    for loras in ((), (LoraWeight("text_kohya", 1.0),)):
        with variant.loras.activate_text(loras):
            results.append(embed_prompt(variant, "(future:1.3) urban", None, guided=False).embeds)
    assert (results[0] - results[1]).abs().max() > 1e-2


def test_a_file_for_the_text_encoders_alone_is_accepted(folder: Path, tmp_path: Path) -> None:
    variant, _ = demo_networks("base")
    state = load_file(folder / "text_kohya.safetensors")
    path = tmp_path / "words.safetensors"
    save_file({key: value for key, value in state.items() if "_te" in key}, path)
    file = read_adapter(path, variant.unet, variant.text_encoders)
    assert not file.unet
    assert all(file.text)


def test_a_layer_that_no_encoder_has_is_refused(tmp_path: Path) -> None:
    variant, _ = demo_networks("base")
    path = tmp_path / "lora.safetensors"
    layer = "text_encoder_2.text_model.encoder.layers.99.mlp.fc1"
    save_file(
        {f"{layer}.lora_A.weight": torch.ones(2, 3), f"{layer}.lora_B.weight": torch.ones(3, 2)},
        path,
    )
    with pytest.raises(AdapterError, match=r"layers\.99\.mlp\.fc1: this model has no such layer"):
        read_adapter(path, variant.unet, variant.text_encoders)
