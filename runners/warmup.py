"""The first steps, before anyone waits for them: they make caches warm and the cost known."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from runners.conditioning import Conditioner
from runners.cost import CostModel
from runners.decode import decode_latents
from runners.denoise import predict_noise
from runners.device import Device
from runners.messages import PaintJob
from runners.networks import ControlNet, Variant
from runners.sample import Sample

_REPETITIONS = 2


def warm_up(variant: Variant, controlnet: ControlNet, device: Device, cost: CostModel) -> None:
    """Time steps and a decode at the variant's native size; sets the cost model's batch bound."""
    size = variant.spec.native_size
    job = PaintJob(
        request_id="warm-up", subscriber="", model=variant.name, controlnet=controlnet.name,
        prompt="terrain", negative_prompt=None, seed=0, num_images=1, steps=2,
        guidance_scale=1.0, controlnet_strength=1.0, control_guidance_start=0.0,
        control_guidance_end=1.0, scheduler="euler", use_karras_sigmas=None, width=size,
        height=size, output_format="jpeg", quality=90, depth=bytes(size * size),
    )  # fmt: skip
    conditioning = Conditioner(device).condition(job, variant, controlnet)

    def measure(rows: int) -> float:
        samples = [
            Sample(job, seed, variant, controlnet, conditioning, device) for seed in range(rows)
        ]
        return min(_timed(lambda: predict_noise(samples, device)[0]) for _ in range(_REPETITIONS))

    measure(1)
    cost.calibrate(measure)
    cost.observe_step(variant.name, size * size, measure(1))
    latents = Sample(job, 0, variant, controlnet, conditioning, device).latents
    started = time.perf_counter()
    decode_latents(latents, variant)
    cost.observe_decode(variant.name, "full", size * size, time.perf_counter() - started)


def _timed(work: Callable[[], torch.Tensor]) -> float:
    started = time.perf_counter()
    # Reading one element waits for a GPU to finish.
    work().flatten()[0].item()
    return time.perf_counter() - started
