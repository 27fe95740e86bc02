"""Parity of the engine's final latents with diffusers' pipeline, alone and in a batch.

    python -m benchmarks.parity [--cases N]

Every case runs in float32 on the CPU: in diffusers' pipeline with its LoRAs fused, and, with LoRAs
merged and as low-rank products, alone in the engine and with all other cases in one engine. That
engine batches them, and half of them join late. A quarter of the cases have a union ControlNet in
depth mode, and diffusers' union pipeline.
"""

from __future__ import annotations

import argparse
import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args
from unittest import mock

import numpy as np
import torch
from msgspec.structs import replace
from PIL import Image

import runners.engine.engine
import runners.engine.output_stage
from benchmarks.support.report import finish
from common.protocol import GenerateJob, LoraMode, LoraWeight
from common.scheduler_table import SCHEDULERS, has_karras_sigmas
from runners.diffusion.schedulers import build_scheduler
from runners.diffusion.vae import Pixels, PixelTransfer, start_decode
from runners.networks.sdxl import SdxlModel
from testing.workbench import (
    CONTROLNET,
    UNION,
    Listener,
    demo_catalog,
    finished,
    guidance_window,
    image_reference_pipeline,
    make_engine,
    make_job,
    reference_arguments,
    reference_pipeline,
)

TOLERANCE = 1e-4
PIXEL_TOLERANCE = 1
_SIZES = ((256, 256), (256, 384), (264, 328), (320, 256))
_WINDOWS = ((0.0, 1.0), (0.0, 0.8), (0.2, 0.7), (0.5, 0.75))
_GUIDED = ((0.0, 1.0), (0.0, 0.5), (0.25, 1.0), (0.2, 0.8))
_SETS: tuple[tuple[LoraWeight, ...], ...] = (
    (),
    (LoraWeight("drone", 0.8), LoraWeight("experimance", 0.4)),
    (LoraWeight("drone", 2.0),),
    (LoraWeight("drone", -1.0), LoraWeight("experimance", 1.5)),
)
# Guidance scales and numbers of steps.
_SETTINGS = ((1.0, 3), (3.0, 4), (2.0, 6), (0.0, 5), (7.5, 8), (3.0, 1))
_UNION_SETTINGS = ((3.0, 4), (1.0, 3))
_MODES: tuple[LoraMode, ...] = get_args(LoraMode)
_NEGATIVE = "blurry, warped, sketch, cartoon, illustration, oversaturated, fish-eye lens"
_PROMPTS = (
    "aerial photography, untouched wilderness, late afternoon sunlight",
    "pre-industrial, 1600s, subsistence agriculture",
    "future solarpunk urban, eco-friendly",
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Largest absolute differences of one case: latents, the reference's own, pixels."""

    latents: float
    reference: float
    pixels: int

    @property
    def passed(self) -> bool:
        """Whether latents are within TOLERANCE or twice the reference's own, pixels to 1/255."""
        allowed = max(TOLERANCE, 2 * self.reference)
        return self.latents <= allowed and self.pixels <= PIXEL_TOLERANCE


def cases(sizes: Sequence[tuple[int, int]] = _SIZES) -> Iterator[GenerateJob]:
    """Yield every scheduler with each setting that changes the arithmetic, in turn.

    Args:
        sizes: heights and widths in pixels.
    """
    rng = np.random.default_rng(7)
    turn = itertools.count()
    names = ("auto", *SCHEDULERS)
    for controlnet, name, (guidance, steps) in (
        *itertools.product((CONTROLNET,), names, _SETTINGS),
        *itertools.product((UNION,), names, _UNION_SETTINGS),
    ):
        number = next(turn)
        height, width = sizes[number % len(sizes)]
        depth = rng.integers(0, 256, (height // 8, width // 8), np.uint8)
        smooth = np.asarray(Image.fromarray(depth).resize((width, height)))
        start, end = _WINDOWS[number // 2 % len(_WINDOWS)]
        first, last = _GUIDED[number % len(_GUIDED)]
        yield make_job(
            smooth,
            request_id=f"{number}-{name}",
            controlnet=controlnet,
            prompt=_PROMPTS[number % len(_PROMPTS)],
            negative_prompt=(None, _NEGATIVE, "")[number % 3],
            seed=1000 + number,
            steps=steps,
            guidance_scale=guidance,
            guidance_start=first,
            guidance_end=last,
            control_guidance_start=start,
            control_guidance_end=end,
            controlnet_strength=(0.8, 1.0, 1.7, 0.0)[number // 3 % 4],
            scheduler=name,
            use_karras_sigmas=_karras(name, number),
            loras=_SETS[number // 2 % len(_SETS)],
        )


def _karras(name: str, number: int) -> bool | None:
    spec = demo_catalog().models["base"].scheduler
    if not has_karras_sigmas(type(build_scheduler(spec, name, None)).__name__):
        return None
    return (None, True, False)[number % 3]


def reference_latents(job: GenerateJob, batch: int = 1) -> torch.Tensor:
    """Return the pipeline's final latents (1, 4, h/8, w/8), the first of a batch of equal size."""
    if job.image:
        pipeline: Any = image_reference_pipeline(job.controlnet)
    else:
        pipeline = reference_pipeline(job.loras, job.controlnet)
    spec = demo_catalog().models["base"].scheduler
    pipeline.scheduler = build_scheduler(spec, job.scheduler, job.use_karras_sigmas)
    jobs = [replace(job, seed=job.seed + i) for i in range(batch)]
    with guidance_window(pipeline, job):
        latents: torch.Tensor = pipeline(**reference_arguments(jobs), output_type="latent").images
    return latents[:1]


def engine_results(
    jobs: Sequence[GenerateJob], late: int, lora_mode: LoraMode
) -> dict[str, tuple[torch.Tensor, Pixels]]:
    """Return final latents and image by request id; the last `late` jobs join on the way."""
    latents: dict[tuple[int, ...], torch.Tensor] = {}

    def record(final: torch.Tensor, variant: SdxlModel, decoder: str) -> PixelTransfer:
        transfer = start_decode(final, variant, decoder)
        latents[_key(transfer.wait())] = final.clone()
        return transfer

    engine = make_engine(lora_mode=lora_mode)
    listeners = {job.request_id: Listener() for job in jobs}
    early = len(jobs) - late
    with mock.patch.object(runners.engine.output_stage, "start_decode", record):
        for job in jobs[:early]:
            engine.submit(job, listeners[job.request_id])
        for job in jobs[early:]:
            engine.tick()
            engine.submit(job, listeners[job.request_id])
        ends = finished(engine, listeners.values())
    results = {}
    for request_id, done in zip(listeners, ends, strict=True):
        pixels: Pixels = np.asarray(Image.open(io.BytesIO(done.images[0])))
        results[request_id] = (latents[_key(pixels)], pixels)
    return results


def _key(pixels: Pixels) -> tuple[int, ...]:
    return (hash(pixels.tobytes()), *pixels.shape)


def compare(jobs: Sequence[GenerateJob], lora_mode: LoraMode = "merged") -> dict[str, Outcome]:
    """Compare each job's latents with the reference, and its image alone with the batched one."""
    together = engine_results(jobs, len(jobs) // 2, lora_mode)
    outcomes = {}
    for job in jobs:
        alone, pixels = engine_results([job], 0, lora_mode)[job.request_id]
        expected = reference_latents(job)
        difference = float((alone - expected).abs().max())
        own = 0.0
        if difference > TOLERANCE:
            own = float((reference_latents(job, batch=2) - expected).abs().max())
        company = together[job.request_id][1].astype(int)
        outcomes[job.request_id] = Outcome(
            difference, own, int(np.abs(company - pixels.astype(int)).max())
        )
    return outcomes


def main() -> None:
    """Run the cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=None, help="only the first N")
    judge(list(cases())[: parser.parse_args().cases])


def judge(jobs: Sequence[GenerateJob]) -> None:
    """Compare, print each case, and finish with the largest difference."""
    outcomes = {
        f"{name}, {mode}": outcome
        for mode in _MODES
        for name, outcome in compare(jobs, mode).items()
    }
    for name, outcome in outcomes.items():
        verdict = "ok" if outcome.passed else "DIFFERS"
        print(f"{name:<24} latents {outcome.latents:.1e}  pixels {outcome.pixels}  {verdict}")
    worst = max(outcome.latents for outcome in outcomes.values())
    finish(
        worst,
        TOLERANCE,
        all(outcome.passed for outcome in outcomes.values()),
        cases=len(outcomes),
        largest_pixel_difference=max(outcome.pixels for outcome in outcomes.values()),
        above_tolerance=[name for name, o in outcomes.items() if o.latents > TOLERANCE],
    )


if __name__ == "__main__":
    main()
