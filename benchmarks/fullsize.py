"""Seconds of one whole image at SDXL's size on this CPU: the engine against diffusers' pipeline.

    python -m benchmarks.fullsize [--loras] [--rounds N] [--work FOLDER] [--small] [--no-service]

The engine with the full and the tiny decoder, and the pipeline, take turns on the same files:
random weights in bfloat16, the small ControlNet, 512 x 512, 6 steps without guidance. Then the
service generates one image at 1024 x 1024. Needs 24 GB of disk and 12 GB of memory, and takes about
15 minutes. The files are deleted at the end.

With `--loras` the image is the installation's: two LoRAs of rank 32 on 722 layers, guidance 2.0,
control for 80 % of the steps; the pipeline's LoRAs are fused. Pairs of steps with and without LoRAs
take turns, and the seconds of a change of LoRAs are printed. `--small` is a trial with narrow
networks in a minute.
"""

from __future__ import annotations

import argparse
import base64
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from msgspec.structs import replace
from PIL import Image

from benchmarks.load import Workshop
from benchmarks.support.lora_contest import (
    add_loras,
    change_seconds,
    installation_job,
    step_ratios,
)
from benchmarks.support.plain_pipeline import plain_pipeline
from benchmarks.support.report import finish
from common.protocol import GenerateJob
from models.catalog import Catalog, load_catalog
from models.store.inventory import LiveInventory
from runners.device import Device
from runners.diffusion.schedulers import build_scheduler
from runners.engine.engine import Engine
from runners.engine.image_encoding import encode_picture
from runners.networks.loading import load_component
from runners.weights.model_cache import ModelCache
from testing.imports import store_at
from testing.random_networks import INSTALLATION_LORAS
from testing.sdxl_set import CHECKPOINT
from testing.server import started_service
from testing.workbench import (
    Listener,
    ResidentLoader,
    finished,
    make_job,
    reference_arguments,
)

_START_SECONDS = 900
BARS = {"full": 0.97, "tiny": 0.83}
"""Seconds of the engine over the pipeline's, by decoder."""
LORA_BARS = {"full": 0.9, "tiny": 0.9, "step": 1.02}
"""The same for the installation's request, and a step with two LoRAs over one without."""
_PAIRS = 20


class Contest:
    """The engine and the pipeline, each with its own networks, mapped from the same files."""

    def __init__(self, catalog: Catalog, device: Device) -> None:
        live_inventory = LiveInventory(catalog)
        model_cache = ModelCache(catalog, live_inventory, device)
        self._device = device
        self._networks = model_cache.load_variant("first"), model_cache.load_controlnet("depth")
        found = live_inventory.inventory
        both = found.models["first"], found.controlnets["depth"]
        parts = {
            kind: load_component(kind, part.path, device)
            for entry in both
            for kind, part in entry.components.items()
        }
        scheduler = build_scheduler(self._networks[0].spec.scheduler, "auto", None)
        self._pipeline = plain_pipeline(parts, scheduler)

    def lora_figures(self, side: int, pairs: int, folder: Path) -> tuple[float, dict[str, float]]:
        """Give both the installation's LoRAs, and compare steps and changes of LoRAs.

        Args:
            side: width and height of the steps' image, in pixels.
            pairs: pairs of steps with and without LoRAs.
            folder: folder for the LoRAs' files.

        Returns:
            The median ratio of the pairs, and the seconds of a change by way.
        """
        add_loras(self._networks, self._pipeline, folder)
        ratios = step_ratios(self._networks, self._device, side, pairs)
        print(f"steps with two LoRAs over none: {', '.join(f'{each:.3f}' for each in ratios)}")
        changes = change_seconds(self._networks, self._pipeline)
        print(f"seconds of a change of LoRAs: {changes}", flush=True)
        return statistics.median(ratios), changes

    def engine(self, job: GenerateJob) -> dict[str, float]:
        """Return an image's seconds by part, with `all` from the request to the encoded file."""
        loader: Any = ResidentLoader({job.model: self._networks})
        engine = Engine(loader, self._device)
        listener = Listener()
        started = time.perf_counter()
        engine.submit(job, listener)
        (done,) = finished(engine, [listener])
        seconds = time.perf_counter() - started
        return {**done.timings, "all": seconds}

    def pipeline(self, job: GenerateJob) -> dict[str, float]:
        """Return an image's seconds by part, as far as the pipeline's callback separates them."""
        self._pipeline.scheduler = build_scheduler(self._networks[0].spec.scheduler, "auto", None)
        ends: list[float] = []

        def note(_: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            ends.append(time.perf_counter())
            return tensors

        started = time.perf_counter()
        (pixels,) = self._pipeline(
            **reference_arguments([job]), output_type="np", callback_on_step_end=note
        ).images
        decoded = time.perf_counter()
        encode_picture((pixels * 255).round().astype(np.uint8), "jpeg", 90, None)
        ended = time.perf_counter()
        return {
            "first step": ends[0] - started,
            "further steps": ends[-1] - ends[0],
            "decode": decoded - ends[-1],
            "save": ended - decoded,
            "all": ended - started,
        }


def compare(contest: Contest, job: GenerateJob, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Time the engine and the pipeline in alternating order.

    Args:
        contest: engine and pipeline.
        job: the request.
        rounds: timed rounds, after one to warm up.

    Returns:
        Seconds by part of every image, by way.
    """
    ways: dict[str, Callable[[], dict[str, float]]] = {
        "engine, full decoder": lambda: contest.engine(job),
        "pipeline": lambda: contest.pipeline(job),
        "engine, tiny decoder": lambda: contest.engine(replace(job, decoder="tiny")),
    }
    took: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    # The warm-up round reads cold pages, and is not counted.
    for number in range(-1, rounds):
        order = list(ways) if number % 2 else list(reversed(ways))
        for way in order:
            seconds = ways[way]()
            parts = ", ".join(f"{part} {value:.2f}" for part, value in seconds.items())
            name = "warm-up" if number < 0 else f"round {number + 1}"
            print(f"{name}: {way}: {parts}", flush=True)
            if number >= 0:
                took[way].append(seconds)
    return took


def plain_job(side: int) -> GenerateJob:
    """Return a request without guidance and LoRAs, square with this many pixels a side."""
    return make_job(
        np.tile(np.linspace(0, 255, side).astype(np.uint8), (side, 1)),
        model="first", steps=6, guidance_scale=1.0, output_format="jpeg",
    )  # fmt: skip


def serve_one(workshop: Workshop, side: int) -> dict[str, Any]:
    """Generate one image through the service, and return its seconds and timings.

    Raises:
        httpx.HTTPStatusError: the service answers with an error.
        RuntimeError: the image has another size than requested.
    """
    log = workshop.folder / "service.log"
    settings = {"CATALOG": str(workshop.folder / "load.toml")}
    body = {"prompt": "untouched wilderness", "mock_depth": True, "steps": 6, "cfg": 1.0,
            "width": side, "height": side}  # fmt: skip
    with started_service(workshop.folder / "home", log, settings, seconds=_START_SECONDS) as url:
        started = time.perf_counter()
        answer = httpx.post(f"{url}/generate", json=body, timeout=None)
        answer.raise_for_status()
        seconds = time.perf_counter() - started
    picture = Image.open(io.BytesIO(base64.b64decode(answer.json()["image_b64"])))
    if picture.size != (side, side):
        raise RuntimeError(f"the service's image has size {picture.size}")
    return {"seconds": round(seconds, 1), "timings": answer.json()["metadata"]["timings"]}


def main() -> None:
    """Create the set, compare, serve, delete the files, and finish with the two ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--work", type=Path, default=None, help="a folder on a large disk")
    parser.add_argument("--small", action="store_true", help="trial with narrow networks")
    parser.add_argument("--no-service", action="store_true")
    parser.add_argument("--loras", action="store_true", help="the installation's request")
    options = parser.parse_args()
    side, served_side = (256, 256) if options.small else (512, 1024)
    with tempfile.TemporaryDirectory(prefix="fullsize-", dir=options.work) as folder:
        workshop = Workshop(Path(folder), options.small)
        workshop.make(tiny_decoder=True)
        workshop.run("import_set")
        # The store holds its weights now, and the disk space is needed.
        (workshop.folder / CHECKPOINT).unlink()
        served = None if options.no_service else serve_one(workshop, served_side)
        with store_at(workshop.folder / "home"):
            catalog = load_catalog(str(workshop.folder / "load.toml"))
            contest = Contest(catalog, Device(torch.device("cpu"), torch.bfloat16))
            figures: dict[str, Any] = {}
            if options.loras:
                pairs = 2 if options.small else _PAIRS
                step, changes = contest.lora_figures(side // 2, pairs, workshop.folder)
                figures = {"step": round(step, 4), "change_seconds": changes}
                job = installation_job(side, INSTALLATION_LORAS)
            else:
                job = plain_job(side)
            took = compare(contest, job, options.rounds)
    medians = {way: statistics.median(run["all"] for run in runs) for way, runs in took.items()}
    ratios = {
        decoder: round(medians[f"engine, {decoder} decoder"] / medians["pipeline"], 4)
        for decoder in BARS
    }
    bars = LORA_BARS if options.loras else BARS
    measured = {**ratios, **({"step": figures["step"]} if options.loras else {})}
    finish(
        measured,
        bars,
        all(measured[name] <= bar for name, bar in bars.items()),
        **figures,
        seconds={way: round(value, 2) for way, value in medians.items()},
        side=side,
        served=served,
        served_side=served_side,
        small=options.small,
    )


if __name__ == "__main__":
    main()
