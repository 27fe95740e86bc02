"""The demo set as it is shipped: small, complete, free of pickles, and a working pipeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionXLControlNetPipeline
from PIL import Image
from safetensors.torch import load_file

from benchmarks.heldout import heldout

WEIGHTS = Path(__file__).parents[2] / "models" / "demo" / "weights"


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionXLControlNetPipeline:
    controlnet = ControlNetModel.from_pretrained(WEIGHTS / "controlnet", torch_dtype=torch.float32)
    pipeline = StableDiffusionXLControlNetPipeline.from_pretrained(
        WEIGHTS, controlnet=controlnet, torch_dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_the_folder_is_small_and_holds_only_safetensors_json_and_text() -> None:
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 55e6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt"}


def test_weights_are_finite_half_precision() -> None:
    for path in WEIGHTS.rglob("*.safetensors"):
        for name, tensor in load_file(path).items():
            assert tensor.dtype in (torch.float16, torch.int64), name
            assert tensor.isfinite().all(), name


def test_it_is_wired_as_sdxl(pipeline: StableDiffusionXLControlNetPipeline) -> None:
    unet, vae = pipeline.unet.config, pipeline.vae.config
    assert unet.addition_embed_type == "text_time"
    assert unet.down_block_types == ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"]
    assert (vae.latent_channels, pipeline.vae_scale_factor) == (4, 8)
    assert not vae.force_upcast
    assert pipeline.text_encoder_2.config.eos_token_id == pipeline.tokenizer_2.eos_token_id
    assert pipeline.config.force_zeros_for_empty_prompt


def test_no_untrained_output_layers(pipeline: StableDiffusionXLControlNetPipeline) -> None:
    for block in pipeline.controlnet.controlnet_down_blocks:
        assert block.weight.abs().max() > 1e-3


@pytest.mark.parametrize("size", [(256, 256), (264, 328)])
def test_pictures_follow_the_depth_map(
    pipeline: StableDiffusionXLControlNetPipeline, size: tuple[int, int]
) -> None:
    one = heldout(size)[2]
    picture = pipeline(
        "aerial photography, untouched wilderness",
        image=Image.fromarray(one.depth).convert("RGB"),
        height=size[0],
        width=size[1],
        num_inference_steps=6,
        guidance_scale=2.0,
        controlnet_conditioning_scale=0.8,
        generator=torch.Generator().manual_seed(1),
        output_type="np",
    ).images[0]
    assert picture.shape == (*size, 3)
    assert picture.std() > 0.05
    assert np.corrcoef(picture.mean(-1).ravel(), one.height.ravel())[0, 1] > 0.3
