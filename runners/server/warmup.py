"""Warm-up before the first request: it fills caches and calibrates the cost model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from queue import SimpleQueue

import structlog
import torch
from msgspec.structs import replace

from common.protocol import Event, GenerateJob, JobDone, JobFailed
from runners.device import Device
from runners.device_faults import is_out_of_memory
from runners.diffusion.denoise import predict_noise
from runners.diffusion.dummy_inputs import dummy_job, dummy_samples
from runners.diffusion.vae import decode_latents
from runners.engine.cost_model import CostModel
from runners.engine.engine import Engine
from runners.errors import WarmUpError
from runners.networks.sdxl import ControlNet, SdxlModel

log = structlog.get_logger(__name__)

_REPETITIONS = 2
# Other requests may cancel or displace warm-up images, which must not fail the startup.
_IGNORED_ERRORS = frozenset({"cancelled", "overloaded"})


def warm_up(variant: SdxlModel, controlnet: ControlNet, device: Device, cost: CostModel) -> None:
    """Measure steps and a decode at the variant's native size, and calibrate the cost model.

    Args:
        variant: a resident variant.
        controlnet: a resident ControlNet.
        device: their device.
        cost: the cost model that receives the measurements.
    """
    size = variant.spec.native_size
    job = dummy_job(variant, controlnet, size)

    def measure(rows: int) -> float:
        samples = dummy_samples(job, variant, controlnet, device, rows)
        return min(
            _measure_seconds(lambda: predict_noise(samples, device)[0]) for _ in range(_REPETITIONS)
        )

    def measure_if_it_fits(rows: int) -> float:
        try:
            return measure(rows)
        except RuntimeError as error:
            if rows == 1 or not is_out_of_memory(error):
                raise
        device.release_cache()
        log.info("a batch does not fit into memory", rows=rows)
        return math.inf

    measure(1)
    cost.calibrate(measure_if_it_fits)
    cost.observe_step(variant.name, size * size, measure(1))
    (sample,) = dummy_samples(job, variant, controlnet, device, 1)
    started = time.perf_counter()
    decode_latents(sample.latents, variant)
    cost.observe_decode(variant.name, "full", size * size, time.perf_counter() - started)


def generate_one_per_size(
    engine: Engine, variant: SdxlModel, controlnet: ControlNet, sizes: Iterable[int]
) -> Mapping[int, float]:
    """Generate and encode one image of two steps per edge length.

    The function blocks until the images are done, so it must not run on the engine's thread.

    Args:
        engine: a running engine.
        variant: a resident variant.
        controlnet: a resident ControlNet.
        sizes: edge lengths in pixels, multiples of 8.

    Returns:
        Seconds by size, without images that were cancelled or rejected by a full queue.

    Raises:
        WarmUpError: the generation of a size failed.
    """
    durations = {}
    for size in sorted(set(sizes)):
        started = time.perf_counter()
        end = paint_and_wait(engine, _default_job(variant, controlnet, size))
        if isinstance(end, JobDone):
            durations[size] = time.perf_counter() - started
        elif end.error in _IGNORED_ERRORS:
            log.warning("warm-up picture left out", size=size, reason=end.error)
        else:
            raise WarmUpError(f"the warm-up at {size} x {size} failed: {end.message}")
    return durations


def paint_and_wait(engine: Engine, job: GenerateJob) -> JobDone | JobFailed:
    """Submit a job and block until it ends; must not run on the engine's thread."""
    ended: SimpleQueue[JobDone | JobFailed] = SimpleQueue()

    def emit(event: Event) -> None:
        if isinstance(event, JobDone | JobFailed):
            ended.put(event)

    engine.submit(job, emit)
    return ended.get()


def _default_job(variant: SdxlModel, controlnet: ControlNet, size: int) -> GenerateJob:
    """Return a dummy job with the guidance and scheduler of a request with defaults."""
    plain = dummy_job(variant, controlnet, size)
    return replace(plain, guidance_scale=variant.spec.cfg, scheduler="auto")


def _measure_seconds(work: Callable[[], torch.Tensor]) -> float:
    started = time.perf_counter()
    # Reading one element synchronizes with the GPU.
    work().flatten()[0].item()
    return time.perf_counter() - started
