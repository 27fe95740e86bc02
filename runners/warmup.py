"""The first steps, before anyone waits for them: they make caches warm and the cost known."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from queue import SimpleQueue

import structlog
import torch

from runners.cost import CostModel
from runners.decode import decode_latents
from runners.denoise import predict_noise
from runners.device import Device
from runners.engine import Engine
from runners.messages import Done, Event, Failed, PaintJob
from runners.networks import ControlNet, Variant
from runners.trial import trial_job, trial_samples

log = structlog.get_logger(__name__)

_REPETITIONS = 2
# What somebody else may do to the first pictures; they are not why a start fails.
_DISTURBED = frozenset({"cancelled", "overloaded"})


class WarmUpError(RuntimeError):
    """A first picture that could not be painted; the message has its size and the reason."""


def warm_up(variant: Variant, controlnet: ControlNet, device: Device, cost: CostModel) -> None:
    """Time steps and a decode at the variant's native size; sets the cost model's batch bound."""
    size = variant.spec.native_size
    job = trial_job(variant, controlnet, size)

    def measure(rows: int) -> float:
        samples = trial_samples(job, variant, controlnet, device, rows)
        return min(_timed(lambda: predict_noise(samples, device)[0]) for _ in range(_REPETITIONS))

    measure(1)
    cost.calibrate(measure)
    cost.observe_step(variant.name, size * size, measure(1))
    (sample,) = trial_samples(job, variant, controlnet, device, 1)
    started = time.perf_counter()
    decode_latents(sample.latents, variant)
    cost.observe_decode(variant.name, "full", size * size, time.perf_counter() - started)


def paint_sizes(
    engine: Engine, variant: Variant, controlnet: ControlNet, sizes: Iterable[int]
) -> Mapping[int, float]:
    """Paint one picture of two steps per edge length, the whole way to its encoded file.

    Not for the engine's own thread: it waits for the pictures.

    Args:
        engine: a running engine.
        variant: what paints, resident.
        controlnet: what it follows, resident.
        sizes: edge lengths in pixels, multiples of 8.

    Returns:
        Seconds by size; a picture that somebody cancelled, or for which the queue had no room,
        is left out.

    Raises:
        WarmUpError: the device could not paint a size.
    """
    took = {}
    for size in sorted(set(sizes)):
        started = time.perf_counter()
        end = paint_and_wait(engine, _real_job(variant, controlnet, size))
        if isinstance(end, Done):
            took[size] = time.perf_counter() - started
        elif end.error in _DISTURBED:
            log.warning("warm-up picture left out", size=size, reason=end.error)
        else:
            raise WarmUpError(f"the warm-up at {size} x {size} failed: {end.message}")
    return took


def paint_and_wait(engine: Engine, job: PaintJob) -> Done | Failed:
    """Submit a job and wait for its end; not for the engine's own thread."""
    ended: SimpleQueue[Done | Failed] = SimpleQueue()

    def emit(event: Event) -> None:
        if isinstance(event, Done | Failed):
            ended.put(event)

    engine.submit(job, emit)
    return ended.get()


def _real_job(variant: Variant, controlnet: ControlNet, size: int) -> PaintJob:
    """As a request that says nothing has it, guidance and scheduler included."""
    plain = trial_job(variant, controlnet, size)
    return replace(plain, guidance_scale=variant.spec.cfg, scheduler="auto")


def _timed(work: Callable[[], torch.Tensor]) -> float:
    started = time.perf_counter()
    # Reading one element waits for a GPU to finish.
    work().flatten()[0].item()
    return time.perf_counter() - started
