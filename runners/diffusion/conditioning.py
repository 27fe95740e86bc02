"""Conditioning tensors of prompts, sizes and depth maps, built once per request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.models.embeddings import get_timestep_embedding

from common.limits import MAX_SEED
from common.lru_cache import LRUCache
from common.protocol import GenerateJob
from runners.buffer_layout import upload
from runners.device import Device
from runners.diffusion.img2img import InitLatents, encode_init_image
from runners.diffusion.prompt_encoding import (
    PromptEmbedding,
    PromptTokens,
    encode_prompt,
    tokenize_prompt,
)
from runners.diffusion.step_plan import StepPlan, plan_steps
from runners.networks.sdxl import ControlNet, SdxlModel

_CACHE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, eq=False)
class Conditioning:
    """Conditioning of one request, shared by its images and constant between steps.

    Shapes: `time_ids` [1, 6] (original size, crop and target size, in pixels), `hint`
    [1, C, h/8, w/8] and `strength` [1, 1, 1, 1] (of the ControlNet), in the networks' dtype on the
    device. `timesteps` [T] of the plan's steps and `noise` [images, draws, 4, h/8, w/8] are float32
    on the device. The first draw of an image is its initial noise, or the first two those of
    `InitLatents.add_noise`; the rest are the steps'. `start` is the init image, or None.
    `guidance` [1, C] is the embedding of the guidance scale for UNets that take one, else None.
    """

    prompt: PromptEmbedding
    time_ids: torch.Tensor
    hint: torch.Tensor
    strength: torch.Tensor
    plan: StepPlan
    timesteps: torch.Tensor
    noise: torch.Tensor
    start: InitLatents | None = None
    guidance: torch.Tensor | None = None


class ConditioningBuilder:
    """Builder of conditionings with a 64 MiB cache of recent prompt embeddings."""

    def __init__(self, device: Device, cache_bytes: int = _CACHE_BYTES) -> None:
        self._device = device
        self._embeddings: LRUCache[tuple[Any, ...], PromptEmbedding] = LRUCache(
            cache_bytes, lambda embedding: embedding.bytes
        )

    @torch.inference_mode()
    def build(self, job: GenerateJob, variant: SdxlModel, controlnet: ControlNet) -> Conditioning:
        """Build the conditioning of one request; all its inputs travel in one copy.

        Args:
            job: the request; `depth` and `image` are uint8 bytes of its size.
            variant: the model that provides tokenizers, text encoders and VAE.
            controlnet: the ControlNet that embeds the depth map.

        Raises:
            PromptLengthError: the prompt or negative prompt needs more than `MAX_CHUNKS` chunks.
            SchedulerChoiceError: the scheduler or its Karras setting is not supported.
        """
        plan = plan_steps(
            variant.spec.scheduler, job.scheduler, job.use_karras_sigmas, job.steps, job.first_step
        )
        key = _prompt_key(job, variant)
        tokens = None if key in self._embeddings else _tokenize_job(job, variant)
        host = _host_tensors(job, plan, variant.unet.config.in_channels, self._device.dtype)
        if variant.guidance_channels is not None:
            host["guidance"] = embed_guidance(job.guidance_scale, variant.guidance_channels).to(
                self._device.dtype
            )
        inputs = upload({**host, **(tokens.ids if tokens else {})}, self._device.torch_device)
        return Conditioning(
            prompt=self._embeddings.get_or_create(
                key, lambda: _encode(job, variant, tokens, inputs)
            ),
            time_ids=inputs["time_ids"],
            hint=controlnet.hint(self._depth_tensor(inputs["depth"])),
            strength=inputs["strength"],
            plan=plan,
            timesteps=inputs["timesteps"],
            noise=inputs["noise"],
            start=encode_init_image(inputs["image"], variant.vae) if job.image else None,
            guidance=inputs.get("guidance"),
        )

    def _depth_tensor(self, grey: torch.Tensor) -> torch.Tensor:
        """Return a depth map, uint8 [h, w], as [1, 3, h, w] in [0, 1] with equal channels."""
        # The reference divides in float32 and casts afterwards.
        return (grey[None, None].float() / 255.0).to(self._device.dtype).expand(1, 3, -1, -1)


def embed_guidance(scale: float, channels: int) -> torch.Tensor:
    """Return the embedding of a guidance scale, float32 [1, channels].

    Distilled UNets are trained with w = scale - 1 and its sinusoidal embedding
    (arXiv:2310.04378, with the frequencies of arXiv:2107.00630).

    Args:
        scale: guidance scale of the request.
        channels: `SdxlModel.guidance_channels`.
    """
    weight = torch.tensor([scale - 1.0]) * 1000.0
    return get_timestep_embedding(weight, channels, downscale_freq_shift=1)


def image_seed(job: GenerateJob, number: int) -> int:
    """Return the seed of a request's image; seeds start again at 0 after the largest."""
    return (job.seed + number) % (MAX_SEED + 1)


def _host_tensors(
    job: GenerateJob, plan: StepPlan, channels: int, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Return a request's inputs in host memory, without those of its prompt.

    A job without a depth map gets one of zeros.
    """
    size = (job.height, job.width)
    depth = job.depth or bytes(job.height * job.width)
    tensors = {
        "time_ids": torch.tensor([[*size, 0, 0, *size]], dtype=dtype),
        "depth": torch.from_numpy(np.frombuffer(depth, np.uint8).copy()).view(size),
        "strength": torch.full((1, 1, 1, 1), job.controlnet_strength, dtype=dtype),
        "timesteps": torch.tensor([step.timestep for step in plan.steps], dtype=torch.float32),
        "noise": torch.stack(
            [_draw_noise(job, plan, channels, number) for number in range(job.num_images)]
        ),
    }
    if job.image:
        pixels = torch.from_numpy(np.frombuffer(job.image, np.uint8).copy())
        tensors["image"] = pixels.view(*size, 3)
    return tensors


def _draw_noise(job: GenerateJob, plan: StepPlan, channels: int, number: int) -> torch.Tensor:
    """Draw an image's noise in diffusers' order, float32 [draws, C, h/8, w/8]."""
    generator = torch.Generator("cpu").manual_seed(image_seed(job, number))
    before = 2 if job.image else 1
    # One draw at a time, because a generator's numbers depend on the sizes of its draws.
    shape = (1, channels, job.height // 8, job.width // 8)
    draws = [
        torch.randn(shape, generator=generator, dtype=torch.float32)
        for _ in range(before + plan.draws)
    ]
    if not job.image:
        draws[0] *= plan.init_noise_sigma
    return torch.cat(draws)


def _prompt_key(job: GenerateJob, variant: SdxlModel) -> tuple[Any, ...]:
    guided = _is_guided(job, variant)
    negative = job.negative_prompt if guided else None
    zeros = variant.spec.force_zeros_for_empty_prompt
    loras = variant.loras.text_key(job.loras)
    return (variant.text_encoder_key, loras, zeros, job.prompt, guided, negative)


def _encode(
    job: GenerateJob,
    variant: SdxlModel,
    tokens: PromptTokens | None,
    ids: Mapping[str, torch.Tensor],
) -> PromptEmbedding:
    """Encode a job's prompt with its LoRAs.

    Args:
        job: the request.
        variant: the model.
        tokens: the prompt's tokens; None if the embedding was evicted after it had been found.
        ids: their ids on the device.
    """
    with variant.loras.activate_text(job.loras):
        return encode_prompt(variant, tokens or _tokenize_job(job, variant), ids)


def _tokenize_job(job: GenerateJob, variant: SdxlModel) -> PromptTokens:
    guided = _is_guided(job, variant)
    negative = job.negative_prompt if guided else None
    return tokenize_prompt(variant, job.prompt, negative, guided)


def _is_guided(job: GenerateJob, variant: SdxlModel) -> bool:
    """Return whether some steps may have an unconditional row."""
    return job.guidance_scale > 1.0 and variant.guidance_channels is None
