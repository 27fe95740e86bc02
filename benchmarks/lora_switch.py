"""Cost of changing LoRAs (arXiv:2106.09685) between steps, at SDXL's size.

    python -m benchmarks.lora_switch [--steps N] [--small]

Random weights in bfloat16 on this CPU, 512 x 512, no guidance. Two LoRAs of rank 32 cover every
attention projection, in the installation's strengths for two eras. Eager steps of the two requests
alternate. Needs 12 GB of memory and takes three minutes; `--small` is a trial in seconds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from msgspec.structs import replace

from benchmarks.support.report import finish
from common.protocol import LoraWeight
from runners.device import Device
from runners.diffusion.batch import BatchCache
from runners.diffusion.denoise import predict_noise
from runners.diffusion.dummy_inputs import dummy_samples
from runners.diffusion.sample import Sample
from testing.random_networks import engine_networks, random_parts, write_lora
from testing.workbench import make_job

BAR = 1.0
"""Largest cost of a switch, in steps."""
_ERAS = ((0.8, 0.4), (0.3, 0.6))
"""Strengths of the two LoRAs: wilderness, industrial."""


def measure(steps: int, small: bool) -> tuple[list[float], list[float]]:
    """Return the seconds of steps with the previous step's LoRAs, and of steps with others."""
    device = Device(torch.device("cpu"), torch.bfloat16)
    parts = random_parts(device, small)
    side, rank = (64, 4) if small else (512, 32)
    networks = engine_networks(parts, side)
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(("drone", "experimance")):
            path = Path(folder, f"{name}.safetensors")
            write_lora(path, networks[0].unet, rank, number)
            networks[0].loras.add(name, path)
    job = make_job(np.zeros((side, side), np.uint8), model="lightning", guidance_scale=1.0, steps=4)
    samples = []
    for drone, own in _ERAS:
        loras = (LoraWeight("drone", drone), LoraWeight("experimance", own))
        samples += dummy_samples(replace(job, loras=loras), *networks, device, 1)
    batches = BatchCache(device)

    def step(sample: Sample) -> float:
        started = time.perf_counter()
        predict_noise([sample], device, batches)
        return time.perf_counter() - started

    for sample in samples:
        step(sample)
    same, other = [], []
    current = samples[-1]
    for _ in range(steps):
        same.append(step(current))
        current = samples[0] if current is samples[1] else samples[1]
        other.append(step(current))
    return same, other


def main() -> None:
    """Measure, and finish with the cost of a switch in steps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=6, help="steps of either kind")
    parser.add_argument("--small", action="store_true", help="trial with narrow networks")
    options = parser.parse_args()
    same, other = measure(options.steps, options.small)
    step, switched = statistics.median(same), statistics.median(other)
    lost = round((switched - step) / step, 4)
    finish(lost, BAR, lost < BAR, step=round(step, 3), switched=round(switched, 3))


if __name__ == "__main__":
    main()
