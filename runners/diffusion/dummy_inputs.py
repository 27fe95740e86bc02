"""Synthetic inputs for warm-up, compilation and calibration."""

from __future__ import annotations

from typing import Any

import torch
from msgspec.structs import replace

from common.protocol import GenerateJob
from runners.device import Device
from runners.diffusion.conditioning import ConditioningBuilder
from runners.diffusion.sample import Sample
from runners.networks.sdxl import ControlNet, SdxlModel


def dummy_job(variant: SdxlModel, controlnet: ControlNet, size: int) -> GenerateJob:
    """Return a job for a square image of `size` pixels per side, in two steps without guidance.

    Args:
        variant: the model of the job.
        controlnet: the ControlNet of the job.
        size: edge length in pixels, a multiple of 8.
    """
    return GenerateJob(
        request_id=f"warm-up-{size}", subscriber="", model=variant.name,
        controlnet=controlnet.name, prompt="terrain", negative_prompt=None, seed=0, num_images=1,
        steps=2, guidance_scale=1.0, controlnet_strength=1.0, control_guidance_start=0.0,
        control_guidance_end=1.0, scheduler="euler", use_karras_sigmas=None, width=size,
        height=size, output_format="jpeg", quality=90, depth=bytes(size * size),
    )  # fmt: skip


def dummy_samples(
    job: GenerateJob, variant: SdxlModel, controlnet: ControlNet, device: Device, count: int
) -> list[Sample]:
    """Return `count` samples of a job before their first step, with shared conditioning.

    Args:
        job: the request that they generate.
        variant: the model of the job.
        controlnet: the ControlNet of the job.
        device: device and dtype of the networks.
        count: number of samples; their seeds are 0 to `count - 1`.
    """
    several = replace(job, seed=0, num_images=count)
    conditioning = ConditioningBuilder(device).build(several, variant, controlnet)
    return [Sample(several, number, variant, controlnet, conditioning) for number in range(count)]


def dummy_controlnet_inputs(
    controlnet: ControlNet, device: Device, rows: int, side: int
) -> dict[str, Any]:
    """Return the keyword arguments of a ControlNet's network, with all tensors zero.

    Args:
        controlnet: the ControlNet, whose configuration determines the shapes.
        device: device and dtype of the tensors.
        rows: batch size.
        side: edge length of the image in pixels, a multiple of 8.
    """
    config = controlnet.network.config
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=device.dtype, device=device.torch_device)

    latents = side // 8
    return {
        "sample": zeros(rows, config.in_channels, latents, latents),
        "timestep": zeros(rows).float(),
        "encoder_hidden_states": zeros(rows, 77, config.cross_attention_dim),
        "controlnet_cond": zeros(rows, config.block_out_channels[0], latents, latents),
        "conditioning_scale": 1.0,
        "added_cond_kwargs": {"text_embeds": zeros(rows, pooled), "time_ids": zeros(rows, 6)},
        "return_dict": False,
    }
