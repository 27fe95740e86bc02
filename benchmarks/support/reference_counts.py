"""Plain diffusers pipeline at SDXL's size on the meta device, for counting operations."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLControlNetPipeline
from PIL import Image

from benchmarks.support.plain_pipeline import plain_pipeline
from common.protocol import GenerateJob
from testing.flop_count import ControlNetSize, sdxl_controlnet, sdxl_parts
from testing.workbench import demo_networks


class _HostScheduler(EulerDiscreteScheduler):  # type: ignore[misc]
    """Scheduler with timesteps on the host, because the meta device has no values to read."""

    def set_timesteps(self, *args: Any, device: Any = None, **kwargs: Any) -> None:
        """Set the timesteps as the base class does, without a device."""
        super().set_timesteps(*args, **kwargs)


@lru_cache
def reference(size: ControlNetSize) -> StableDiffusionXLControlNetPipeline:
    """Return the pipeline with the engine's networks and a ControlNet with its hint embedding."""
    parts = sdxl_parts()
    first, second = demo_networks("lightning")[0].tokenizers
    own = {"controlnet": sdxl_controlnet(size), "tokenizer": first, "tokenizer_2": second}
    return plain_pipeline({**parts, **own}, _HostScheduler())


def paint(
    job: GenerateJob, size: ControlNetSize, on_step: Callable[[int], None] | None = None
) -> None:
    """Call the pipeline once for a job.

    Args:
        job: the request.
        size: size of the ControlNet.
        on_step: called after each step with its number.
    """

    def after(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if on_step is not None:
            on_step(step)
        return tensors

    pipeline = reference(size)
    with torch.inference_mode():
        pipeline(
            prompt=job.prompt,
            negative_prompt=job.negative_prompt,
            image=Image.new("RGB", (job.width, job.height)),
            width=job.width,
            height=job.height,
            num_inference_steps=job.steps,
            guidance_scale=job.guidance_scale,
            controlnet_conditioning_scale=job.controlnet_strength,
            control_guidance_start=job.control_guidance_start,
            control_guidance_end=job.control_guidance_end,
            generator=torch.Generator("cpu").manual_seed(job.seed),
            output_type="pt",
            callback_on_step_end=after,
        )
