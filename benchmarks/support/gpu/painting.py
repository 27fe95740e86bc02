"""Sections about pictures and steps: are they right, who waits, and how long do they take."""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.support.gpu.subject import LORAS, OTHER_LORAS, Subject
from common.protocol import GenerateJob
from deploy.vast.price_table import known_gpu
from runners.diffusion.batch import BatchCache
from runners.diffusion.compile import Compiler
from runners.diffusion.denoise import predict_noise
from testing.flop_count import operations, sdxl
from testing.workbench import Listener, drain

Row = tuple[str, dict[str, Any]]
MEAN_TOLERANCE = 1.0
"""Mean difference of two renderings in half precision, in steps of 8 bits."""


def correctness(subject: Subject) -> Iterator[Row]:
    """Compare the installation's picture with diffusers' at the same seed, and time both."""
    job = subject.job()
    (own,) = subject.paint(job)
    (theirs,) = subject.paint_plain(job)
    difference = np.abs(own.astype(int) - theirs.astype(int))
    yield (
        "picture against diffusers'",
        {
            "mean": float(difference.mean()),
            "p99": float(np.percentile(difference, 99)),
            "largest": int(difference.max()),
            "spread of the picture": float(own.std()),
            "equal within half precision": bool(difference.mean() <= MEAN_TOLERANCE),
        },
    )
    seconds = subject.best_of(
        {"engine": lambda: subject.paint(job), "diffusers": lambda: subject.paint_plain(job)}
    )
    yield (
        "installation's request, seconds",
        {
            **seconds,
            "ratio": seconds["engine"] / seconds["diffusers"],
            **_roofline(subject, job, seconds["engine"]),
        },
    )


def _roofline(subject: Subject, job: GenerateJob, seconds: float) -> dict[str, float]:
    """Return the share of the card's data sheet that was reached, without the LoRAs' work."""
    card = known_gpu(torch.cuda.get_device_name()) if subject.on_gpu else None
    if card is None or subject.miniature:
        return {}
    counted = operations(job, *sdxl("lightning", "small")) / 1e12
    return {"roofline": counted / seconds / card.tflops}


def waits(subject: Subject) -> Iterator[Row]:
    """List every call at which the host waits, over admission, steps and decode."""
    engine = subject.engine()
    warm, listener = Listener(), Listener()
    engine.submit(subject.job(request_id="warm"), warm)
    drain(engine)
    engine.submit(subject.job(request_id="watched", seed=1), listener)
    number = 0
    while not engine_is_idle(engine):
        number += 1
        places = _watch(subject, engine)
        name = "admission and first step" if number == 1 else f"step {number}"
        yield name, {"waits": sum(places.values()), **places}
    engine.close()


def engine_is_idle(engine: Any) -> bool:
    """Return whether an engine has neither waiting nor running requests with steps left."""
    waiting, running, _ = engine.load()
    return bool(waiting + running == 0)


def _watch(subject: Subject, engine: Any) -> Counter[str]:
    """Run one tick; return the waits by their place in the code."""
    if subject.on_gpu:
        torch.cuda.set_sync_debug_mode("warn")
    places: Counter[str] = Counter()
    original = warnings.showwarning

    def record(message: Any, category: Any, file: str, line: int, *_: Any) -> None:
        if "synchronizing" in str(message):
            own = [f for f in traceback.extract_stack() if "/runners/" in f.filename]
            place = f"{own[-1].filename.rpartition('/runners/')[2]}:{own[-1].lineno}" if own else ""
            places[place or f"{file}:{line}"] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = record  # type: ignore[assignment]
        try:
            engine.tick()
        finally:
            warnings.showwarning = original
            if subject.on_gpu:
                torch.cuda.set_sync_debug_mode("default")
    return places


def step_times(subject: Subject) -> Iterator[Row]:
    """Compare the host's time of a step with the device's, eager and compiled."""
    yield from _step_rows(subject, "eager")
    yield "switching LoRAs", _switch(subject)
    compiler = Compiler("regional", "eager" if subject.miniature else "inductor", subject.device)
    seconds = subject.seconds(lambda: compiler.compile_unet(subject.networks[0], subject.device))
    yield "compilation", {"seconds": seconds}
    yield from _step_rows(subject, "compiled")


def _step_rows(subject: Subject, kind: str) -> Iterator[Row]:
    for guidance in (1.0, 2.0):
        for loras in ((), LORAS):
            samples = subject.samples(subject.job(guidance, loras))
            batches = BatchCache(subject.device)
            host, device = subject.host_and_device(
                lambda s=samples, b=batches: predict_noise(s, subject.device, b)  # type: ignore[misc]
            )
            rows = "1 row" if guidance == 1.0 else "2 rows"
            name = f"step, {rows}, {len(loras)} LoRAs, {kind}"
            yield name, {"host": host, "device": device, "host/device": host / device}


def _switch(subject: Subject) -> dict[str, float]:
    """Return the seconds that a change of the set of LoRAs adds to a request."""
    first, second = subject.job(), subject.job(loras=OTHER_LORAS)

    def both(*jobs: GenerateJob) -> None:
        for job in jobs:
            subject.paint(job)

    seconds = subject.best_of(
        {"equal": lambda: both(first, first), "other": lambda: both(first, second)}
    )
    return {"seconds": (seconds["other"] - seconds["equal"]) / 2}
