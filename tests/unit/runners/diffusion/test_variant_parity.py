"""Variants that differ from SDXL base in their arithmetic, against diffusers' pipelines."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetPipeline,
    UNet2DConditionModel,
)

from common.protocol import GenerateJob
from models.catalog import SchedulerSpec
from runners.diffusion.conditioning import Conditioning, ConditioningBuilder, embed_guidance
from runners.diffusion.preview import start_preview
from runners.diffusion.sample import Sample
from runners.diffusion.schedulers import build_scheduler
from runners.engine.engine import Engine
from runners.networks.lora.working_copy import WorkingCopy
from runners.networks.sdxl import SdxlModel
from testing.workbench import (
    DEVICE,
    WEIGHTS,
    Listener,
    ResidentLoader,
    demo_networks,
    make_job,
    reference_arguments,
    reference_pipeline,
)
from tests.support.images.pictures import hill
from tests.support.runner.jobs import finish, pictures

DEPTH = hill(64, 64)
PICTURE = np.dstack([DEPTH, 255 - DEPTH, DEPTH // 2]).tobytes()
EPSILON = SchedulerSpec(
    **{"class": "EulerDiscreteScheduler"}, options={"timestep_spacing": "trailing"}
)
V_PREDICTION = EPSILON.model_copy(
    update={
        "prediction_type": "v_prediction",
        "options": {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True},
    }
)
STATISTICS = {"latents_mean": [0.3, -0.2, 0.1, 0.5], "latents_std": [0.9, 1.2, 0.8, 1.1]}


class Own:
    """A variant of the demo set with changed parts, in the engine and in diffusers' pipelines."""

    def __init__(self, scheduler: SchedulerSpec = EPSILON, **parts: Any) -> None:
        base, self.controlnet = demo_networks("base")
        own = {
            "unet": UNet2DConditionModel.from_pretrained(WEIGHTS / "unet", dtype=torch.float32),
            "vae": AutoencoderKL.from_pretrained(WEIGHTS / "vae", dtype=torch.float32),
            **parts,
        }
        self._reference = {kind: deepcopy(network).eval() for kind, network in own.items()}
        served = {kind: network.eval().requires_grad_(False) for kind, network in own.items()}
        served |= dict(zip(("tokenizer", "tokenizer_2"), base.tokenizers, strict=True))
        served |= dict(zip(("text_encoder", "text_encoder_2"), base.text_encoders, strict=True))
        served["tiny_decoder"] = base.tiny_decoder
        spec = base.spec.model_copy(update={"scheduler": scheduler})
        self.variant = SdxlModel.from_components("own", spec, served, "own", WorkingCopy())

    def paint(self, *jobs: GenerateJob) -> list[np.ndarray[Any, Any]]:
        """Pictures of the engine, from one batch where jobs allow it."""
        loader: Any = ResidentLoader({"own": (self.variant, self.controlnet)})
        engine = Engine(loader, DEVICE)
        engine.cost.max_batch_rows = 8
        listeners = [Listener() for _ in jobs]
        for job, listener in zip(jobs, listeners, strict=True):
            engine.submit(job, listener)
        finish(engine)
        return [pictures(listener)[0] for listener in listeners]

    def expected(self, job: GenerateJob) -> np.ndarray[Any, Any]:
        """The picture of diffusers' pipeline."""
        image_to_image = StableDiffusionXLControlNetImg2ImgPipeline
        cls = image_to_image if job.image else StableDiffusionXLControlNetPipeline
        scheduler = build_scheduler(self.variant.spec.scheduler, job.scheduler, None)
        components = {**reference_pipeline().components, **self._reference, "scheduler": scheduler}
        pipeline = cls(**components, add_watermarker=False)
        pipeline.set_progress_bar_config(disable=True)
        return np.asarray(pipeline(**reference_arguments([job])).images[0])


def own_job(name: str, **changes: Any) -> GenerateJob:
    settings = {"model": "own", "request_id": name, "steps": 3, "guidance_scale": 3.0, **changes}
    return make_job(DEPTH, **settings)


def difference(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def lcm_unet() -> UNet2DConditionModel:
    """The demo UNet with an input for the guidance scale, and weights that make it matter."""
    base = UNet2DConditionModel.from_pretrained(WEIGHTS / "unet", dtype=torch.float32)
    unet = UNet2DConditionModel.from_config({**base.config, "time_cond_proj_dim": 32})
    weights = base.state_dict()
    generator = torch.Generator().manual_seed(5)
    shape = unet.time_embedding.cond_proj.weight.shape
    weights["time_embedding.cond_proj.weight"] = torch.randn(shape, generator=generator) / 4
    unet.load_state_dict(weights)
    return unet


@pytest.mark.parametrize("scheduler", ["auto", "lcm"])
def test_a_guidance_embedding_equals_the_pipelines(scheduler: str) -> None:
    own = Own(unet=lcm_unet())
    jobs = [
        own_job(f"{scale}", guidance_scale=scale, scheduler=scheduler, seed=number)
        for number, scale in enumerate((1.0, 2.5, 8.0))
    ]
    for job, picture in zip(jobs, own.paint(*jobs), strict=True):
        assert difference(picture, own.expected(job)) <= 1
    same_seed = [own_job(f"{scale}", guidance_scale=scale) for scale in (2.0, 8.0)]
    assert difference(*own.paint(*same_seed)) > 5, "the scale has an effect"


def test_a_guidance_embedding_takes_one_row(batches: list[list[str]]) -> None:
    own = Own(unet=lcm_unet())
    job = own_job("one", guidance_scale=8.0, enable_deepcache=True, steps=6)
    own.paint(job)
    conditioning = own_conditioning(own, job)
    sample = Sample(job, 0, own.variant, own.controlnet, conditioning)
    assert (sample.batch_rows, sample.remaining_rows) == (1, 6)
    assert conditioning.prompt.negative_embeds is None
    assert len(batches) == 6


def own_conditioning(own: Own, job: GenerateJob) -> Conditioning:
    return ConditioningBuilder(DEVICE).build(job, own.variant, own.controlnet)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1.5, 7.5, 20.0])
def test_the_guidance_embedding_is_diffusers(scale: float) -> None:
    reference = StableDiffusionXLControlNetPipeline.get_guidance_scale_embedding
    expected = reference(None, torch.tensor([scale - 1.0]), embedding_dim=256)
    assert (embed_guidance(scale, 256) - expected).abs().max() < 5e-3


@pytest.mark.parametrize("image", [b"", PICTURE], ids=["text", "image"])
def test_latent_statistics_equal_the_pipelines(image: bytes) -> None:
    base = AutoencoderKL.from_pretrained(WEIGHTS / "vae", dtype=torch.float32)
    vae = AutoencoderKL.from_config({**base.config, **STATISTICS})
    vae.load_state_dict(base.state_dict())
    own = Own(vae=vae)
    job = own_job("one", image=image, strength=0.6 if image else None, steps=5)
    (picture,) = own.paint(job)
    assert difference(picture, own.expected(job)) <= 1
    assert difference(picture, Own().paint(job)[0]) > 5, "the statistics have an effect"


@pytest.mark.slow
@pytest.mark.parametrize("image", [b"", PICTURE], ids=["text", "image"])
@pytest.mark.parametrize(
    "scheduler",
    ["auto", "euler", "euler_a", "dpm_sde", "dpm_multi", "dpm_single", "ddim", "lcm", "unipc"],
)
def test_v_prediction_with_zero_snr_equals_the_pipelines(scheduler: str, image: bytes) -> None:
    own = Own(V_PREDICTION)
    strength = 0.6 if image else None
    job = own_job("one", scheduler=scheduler, image=image, strength=strength, steps=5)
    (picture,) = own.paint(job)
    assert difference(picture, own.expected(job)) <= 1


@pytest.mark.parametrize("scheduler", ["auto", "ddim", "dpm_multi"])
def test_a_preview_of_v_prediction_shows_the_predicted_image(scheduler: str) -> None:
    """With the exact velocity, the prediction is the image, from the first step on."""
    own = Own(V_PREDICTION)
    job = own_job("one", scheduler=scheduler, steps=4)
    sample = Sample(job, 0, own.variant, own.controlnet, own_conditioning(own, job))
    image = 0.5 * torch.ones_like(sample.latents)
    alpha = sample.plan.steps[0].alpha
    noise = (sample.model_input() - alpha**0.5 * image) / (1 - alpha) ** 0.5
    velocity = alpha**0.5 * noise - (1 - alpha) ** 0.5 * image
    preview = start_preview(sample, velocity)
    assert preview is not None
    tiny = own.variant.tiny_decoder
    with torch.inference_mode():
        expected = (tiny.decode(image).sample[0] / 2 + 0.5).clamp(0, 1).mul(255)
    got = torch.from_numpy(preview.wait().copy()).permute(2, 0, 1)
    assert (got - expected).abs().max() <= 2
