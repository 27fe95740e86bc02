"""The demo set as it is shipped: small, complete, free of pickles, and a working pipeline."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionXLControlNetPipeline
from PIL import Image
from safetensors.torch import load_file

from benchmarks.support.quality.gallery import paint_pairs, plan, true_renderings
from benchmarks.support.quality.lora_response import mean_change
from common.protocol import LoraWeight
from models.catalog import load_catalog
from models.demo.training.data.looks import LOOKS, apply_look
from testing.heldout import heldout
from testing.server import ROOT
from testing.workbench import component_folders

pytestmark = pytest.mark.slow

WEIGHTS = ROOT / "models" / "demo" / "weights"
# The set was trained on this size too.
SMALL = (128, 128)


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionXLControlNetPipeline:
    controlnet = ControlNetModel.from_pretrained(WEIGHTS / "controlnet", torch_dtype=torch.float32)
    pipeline = StableDiffusionXLControlNetPipeline.from_pretrained(
        WEIGHTS, controlnet=controlnet, torch_dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_demo_folder_is_small_and_has_only_allowed_file_types() -> None:
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 55e6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt"}


def test_weights_are_finite_half_precision() -> None:
    for path in WEIGHTS.rglob("*.safetensors"):
        for name, tensor in load_file(path).items():
            assert tensor.dtype in (torch.float16, torch.int64), name
            assert tensor.isfinite().all(), name


def test_demo_pipeline_has_the_sdxl_structure(
    pipeline: StableDiffusionXLControlNetPipeline,
) -> None:
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


@pytest.mark.parametrize("size", [(256, 256), (136, 168)])
def test_pictures_follow_the_depth_map(
    pipeline: StableDiffusionXLControlNetPipeline, size: tuple[int, int]
) -> None:
    *_, one = heldout(size, count=3)
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


def test_variants_share_everything_but_the_unet() -> None:
    catalog = load_catalog("demo")
    folders = {name: component_folders(catalog, name) for name in catalog.models}
    base = folders["base"]
    for name in ("lightning", "hyper"):
        own = {kind for kind, folder in folders[name].items() if folder != base[kind]}
        assert own == {"unet"}
        student = load_file(folders[name]["unet"] / "diffusion_pytorch_model.safetensors")
        teacher = load_file(base["unet"] / "diffusion_pytorch_model.safetensors")
        assert {key: value.shape for key, value in student.items()} == {
            key: value.shape for key, value in teacher.items()
        }
        assert any((student[key] != teacher[key]).any() for key in student)


@pytest.mark.parametrize("look", sorted(LOOKS))
def test_loras_are_small_and_in_diffusers_format(look: str) -> None:
    factors = load_file(WEIGHTS / "loras" / f"{look}.safetensors")
    assert all(key.startswith("unet.") for key in factors)
    downs = [value for key, value in factors.items() if key.endswith("lora_A.weight")]
    assert len(downs) == len(factors) / 2
    assert max(down.shape[0] for down in downs) <= 16


@pytest.mark.parametrize("look", sorted(LOOKS))
def test_loras_change_the_look_with_their_strength(look: str) -> None:
    pairs = plan(heldout(SMALL, count=2), 1)
    true = true_renderings(pairs)
    graded = [
        apply_look(look, picture, held.height)
        for picture, (held, _) in zip(true, pairs, strict=True)
    ]
    axis = mean_change(graded, true)
    plain, half, whole = (
        paint_pairs(pairs, "lightning", loras=(LoraWeight(look, strength),))
        for strength in (0.0, 0.6, 1.2)
    )
    weaker, stronger = (mean_change(pictures, plain) @ axis for pictures in (half, whole))
    assert 0 < weaker < stronger


@pytest.mark.parametrize("model", ["lightning", "hyper"])
def test_few_steps_without_guidance_follow_the_depth_map(model: str) -> None:
    pairs = plan(heldout(SMALL, count=4), 1)
    for picture, (held, _) in zip(paint_pairs(pairs, model), pairs, strict=True):
        assert picture.std() > 12
        assert np.corrcoef(picture.mean(-1).ravel(), held.height.ravel())[0, 1] > 0.2
