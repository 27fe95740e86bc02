"""Requests that nobody made: what warms networks up, compiles them and times them."""

from __future__ import annotations

from typing import Any

import torch

from runners.conditioning import Conditioner
from runners.device import Device
from runners.messages import PaintJob
from runners.networks import ControlNet, Variant
from runners.sample import Sample


def trial_job(variant: Variant, controlnet: ControlNet, size: int) -> PaintJob:
    """Two plain steps of a square picture, `size` pixels a side."""
    return PaintJob(
        request_id=f"warm-up-{size}", subscriber="", model=variant.name,
        controlnet=controlnet.name, prompt="terrain", negative_prompt=None, seed=0, num_images=1,
        steps=2, guidance_scale=1.0, controlnet_strength=1.0, control_guidance_start=0.0,
        control_guidance_end=1.0, scheduler="euler", use_karras_sigmas=None, width=size,
        height=size, output_format="jpeg", quality=90, depth=bytes(size * size),
    )  # fmt: skip


def trial_samples(
    job: PaintJob, variant: Variant, controlnet: ControlNet, device: Device, count: int
) -> list[Sample]:
    """So many samples of a job that share its conditioning, before their first step."""
    conditioning = Conditioner(device).condition(job, variant, controlnet)
    return [Sample(job, seed, variant, controlnet, conditioning, device) for seed in range(count)]


def trial_control(controlnet: ControlNet, device: Device, rows: int, side: int) -> dict[str, Any]:
    """Arguments of a ControlNet's network: zeros for pictures of `side` pixels a side."""
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
