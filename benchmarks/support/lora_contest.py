"""Cost of two LoRAs at SDXL's size: of a step, and of an image against diffusers' fused LoRAs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.protocol import GenerateJob, LoraWeight
from runners.device import Device
from runners.diffusion.batch import BatchCache
from runners.diffusion.denoise import predict_noise
from runners.diffusion.dummy_inputs import dummy_samples
from runners.networks.sdxl import ControlNet, SdxlModel
from testing.fused_loras import fuse_loras
from testing.random_networks import INSTALLATION_LORAS, write_lora
from testing.workbench import make_job

OTHER_LORAS = (LoraWeight("drone", 0.3), LoraWeight("experimance", 0.6))
"""Set of another era."""
_RANK = 32
Networks = tuple[SdxlModel, ControlNet]


def add_loras(networks: Networks, pipeline: Any, folder: Path) -> None:
    """Give both the same two random LoRAs, on the layers that kohya's trainer changes."""
    for seed, lora in enumerate(INSTALLATION_LORAS):
        path = folder / f"{lora.name}.safetensors"
        write_lora(path, networks[0].unet, _RANK, seed)
        networks[0].loras.add(lora.name, path)
        pipeline.load_lora_weights(folder, weight_name=path.name, adapter_name=lora.name)
        path.unlink()


def installation_job(side: int, loras: Sequence[LoraWeight]) -> GenerateJob:
    """Return the installation's request, square with this many pixels a side."""
    return make_job(
        np.tile(np.linspace(0, 255, side).astype(np.uint8), (side, 1)), model="first", steps=6,
        guidance_scale=2.0, control_guidance_end=0.8, negative_prompt="blurry, warped, sketch",
        output_format="jpeg", loras=tuple(loras),
    )  # fmt: skip


def step_ratios(networks: Networks, device: Device, side: int, pairs: int) -> list[float]:
    """Return the seconds of steps with two LoRAs over those without, in alternating order.

    A pair consists of one step of either kind; the merging before it is not timed.
    """
    samples = {
        name: dummy_samples(installation_job(side, loras), *networks, device, 1)
        for name, loras in {"with": INSTALLATION_LORAS, "without": ()}.items()
    }
    batches = BatchCache(device)

    def step(name: str) -> float:
        networks[0].loras.prepare(samples[name][0].job.loras)
        started = time.perf_counter()
        predict_noise(samples[name], device, batches)
        return time.perf_counter() - started

    step("with")
    step("without")
    ratios = []
    for number in range(pairs):
        order = ("with", "without") if number % 2 else ("without", "with")
        seconds = {name: step(name) for name in order}
        ratios.append(seconds["with"] / seconds["without"])
    return ratios


def change_seconds(networks: Networks, pipeline: Any) -> dict[str, float]:
    """Return the seconds of a change of LoRAs, by way."""

    def timed(change: Callable[[], object]) -> float:
        started = time.perf_counter()
        change()
        return time.perf_counter() - started

    def ours() -> None:
        for loras in (OTHER_LORAS, INSTALLATION_LORAS):
            networks[0].loras.prepare(loras)

    def theirs() -> None:
        for loras in (OTHER_LORAS, INSTALLATION_LORAS):
            fuse_loras(pipeline, loras)

    fuse_loras(pipeline, INSTALLATION_LORAS)
    ours()
    pairs = [(timed(ours) / 2, timed(theirs) / 2) for _ in range(2)]
    return {
        "engine": statistics.median(first for first, _ in pairs),
        "diffusers": statistics.median(second for _, second in pairs),
    }
