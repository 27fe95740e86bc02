"""Host's seconds per step of the engine and of diffusers' pipeline with fused LoRAs."""

from __future__ import annotations

import contextlib
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.support.plain_pipeline import plain_pipeline
from runners.device import CPU
from runners.diffusion.schedulers import build_scheduler
from testing.flop_count import CountedEngine
from testing.fused_loras import fuse_loras
from testing.random_networks import (
    INSTALLATION_LORAS,
    engine_networks,
    random_parts,
    shared_copies,
    write_lora,
)
from testing.workbench import make_job, reference_arguments

Work = Callable[[Callable[[int], None]], None]
"""Generation of one image, with a callback after each step."""

_SIDE = 64
_RANK = 4


def host_ratio(first: Work, second: Work, rounds: int) -> float:
    """Return the median ratio of two works' seconds per step; they take turns.

    The first step of each image is left out, and the first image of each.
    """

    def run(work: Work) -> float:
        ends: list[float] = []
        work(lambda _: ends.append(time.perf_counter()))
        return statistics.median(after - before for before, after in itertools.pairwise(ends))

    run(first)
    run(second)
    ratios = []
    for number in range(rounds):
        if number % 2:
            mine, theirs = run(first), run(second)
        else:
            theirs, mine = run(second), run(first)
        ratios.append(mine / theirs)
    return statistics.median(ratios)


@contextlib.contextmanager
def narrow_contest() -> Iterator[tuple[Work, Work]]:
    """Yield the works of engine and pipeline: the installation's request, with control throughout.

    The networks are narrow, with all of SDXL's layers. torch computes on one thread.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    parts = random_parts(CPU, small=True, is_deep=True)
    # Fusing writes into the weights.
    plain = shared_copies(parts) | {"unet": deepcopy(parts["unet"])}
    variant, controlnet = engine_networks(parts, _SIDE)
    pipeline = plain_pipeline(plain, build_scheduler(variant.spec.scheduler, "euler", None))
    with tempfile.TemporaryDirectory() as folder:
        for seed, lora in enumerate(INSTALLATION_LORAS):
            path = Path(folder, f"{lora.name}.safetensors")
            write_lora(path, variant.unet, _RANK, seed)
            variant.loras.add(lora.name, path)
            pipeline.load_lora_weights(folder, weight_name=path.name, adapter_name=lora.name)
    fuse_loras(pipeline, INSTALLATION_LORAS)
    job = make_job(
        np.zeros((_SIDE, _SIDE), np.uint8), model="lightning", steps=6, guidance_scale=2.0,
        scheduler="euler", loras=INSTALLATION_LORAS, negative_prompt="blurry",
    )  # fmt: skip
    engine = CountedEngine(variant, controlnet, CPU)

    def paint_plain(on_step: Callable[[int], None]) -> None:
        def after(_: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            on_step(step)
            return tensors

        with torch.inference_mode():
            pipeline(**reference_arguments([job]), output_type="pt", callback_on_step_end=after)

    try:
        yield lambda on_step: engine.paint(job, on_step), paint_plain
    finally:
        torch.set_num_threads(threads)
