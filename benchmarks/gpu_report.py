"""Speed of the engine on this GPU, and its share of the card's throughput.

    python -m benchmarks.gpu_report [--minutes 8] [--output FILE] [--miniature]

Needs torch, diffusers and a GPU with 24 GB, but no service and no files, because SDXL's networks
get random weights. The engine and diffusers' pipeline take turns on the same tensors. Measurements
that do not fit into the minutes are listed as left out. `--miniature` is a trial with narrow
networks on any device.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
from msgspec.structs import replace

from benchmarks.support.plain_pipeline import plain_pipeline
from benchmarks.support.report import finish
from common.protocol import GenerateJob, LoraWeight
from deploy.vast.price_table import known_gpu
from runners.device import Device
from runners.diffusion.compile import Compiler
from runners.diffusion.schedulers import build_scheduler
from runners.engine.engine import Engine
from testing.flop_count import operations, sdxl
from testing.random_networks import (
    engine_networks,
    lightning_spec,
    random_parts,
    shared_copies,
    write_lora,
)
from testing.workbench import (
    Listener,
    ResidentLoader,
    finished,
    make_job,
    reference_arguments,
)

BAR = 1.0
"""Seconds of the eager engine over the pipeline's, for six steps."""
_REPETITIONS = 3
_IN_MINIATURE = 3
_ROWS = 8


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of request and its batch size."""

    name: str
    steps: int
    guidance: float
    batch: int = 1
    decoder: str = "full"


CASES = (
    Case("6 steps", 6, 1.0),
    Case("6 steps, guidance", 6, 2.0),
    Case("6 steps, tiny decoder", 6, 1.0, decoder="tiny"),
    Case("base, 20 steps, guidance", 20, 7.5),
    Case("6 steps", 6, 1.0, batch=2),
    Case("6 steps", 6, 1.0, batch=4),
    Case("6 steps, guidance", 6, 2.0, batch=4),
)


class Report:
    """Measurements on one device, within a time limit in minutes."""

    def __init__(self, minutes: float, miniature: bool) -> None:
        self._ends = time.monotonic() + 60 * minutes
        self._miniature = miniature
        self.device = _device(miniature)
        self._side = 64 if miniature else 1024
        parts = random_parts(self.device, miniature)
        spec = lightning_spec(self._side)
        scheduler = build_scheduler(spec.scheduler, "auto", None)
        self._pipeline = plain_pipeline(shared_copies(parts), scheduler)
        self._networks = engine_networks(parts, self._side)
        self.left_out: list[str] = []

    def lines(self) -> Iterator[tuple[str, dict[str, float]]]:
        """Yield the name of each measurement as it ends, and its figures by name."""
        with tempfile.TemporaryDirectory() as folder:
            self._read_loras(Path(folder))
        yield from self._cases("eager", compare=True)
        yield "switching LoRAs, per step", self._lora_switch()
        yield "a UNet from pinned memory", self._return()
        if self._fits("compiled"):
            yield "compilation", {"seconds": self._compile()}
            yield from self._cases("compiled", compare=False)
        if self.device.torch_device.type == "cuda":
            yield "peak memory", {"GB": torch.cuda.max_memory_allocated() / 1e9}

    def _cases(self, kind: str, compare: bool) -> Iterator[tuple[str, dict[str, float]]]:
        for case in CASES[:_IN_MINIATURE] if self._miniature else CASES:
            name = f"{case.name}, batch {case.batch}, {kind}"
            if not self._fits(name):
                continue
            job = self._job(case)
            ways = {"engine": partial(self._paint, job, case.batch)}
            if compare and case.decoder == "full":
                ways["diffusers"] = partial(self._paint_plain, job, case.batch)
            seconds = {way: value / case.batch for way, value in self._take_turns(ways).items()}
            if "diffusers" in seconds:
                seconds["ratio"] = seconds["engine"] / seconds["diffusers"]
            share = self._roofline(job, seconds["engine"])
            yield name, seconds if share is None else {**seconds, "roofline": share}

    def _take_turns(self, ways: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        """Return the least seconds of each way; the first call of each is not timed."""
        best = dict.fromkeys(ways, float("inf"))
        for number in range(1 if self._miniature else _REPETITIONS):
            for way, work in ways.items():
                if number == 0:
                    work()
                best[way] = min(best[way], self._seconds(work))
        return best

    def _seconds(self, work: Callable[[], object]) -> float:
        self._wait()
        started = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - started

    def _wait(self) -> None:
        if self.device.torch_device.type == "cuda":
            torch.cuda.synchronize()

    def _paint(self, job: GenerateJob, batch: int) -> None:
        loader: Any = ResidentLoader({job.model: self._networks})
        engine = Engine(loader, self.device)
        engine.cost.max_batch_rows = _ROWS
        listeners = [Listener() for _ in range(batch)]
        for number, listener in enumerate(listeners):
            engine.submit(replace(job, request_id=str(number), seed=number), listener)
        finished(engine, listeners)

    def _paint_plain(self, job: GenerateJob, batch: int) -> None:
        scheduler = self._networks[0].spec.scheduler
        self._pipeline.scheduler = build_scheduler(scheduler, "auto", None)
        jobs = [replace(job, seed=number) for number in range(batch)]
        self._pipeline(**reference_arguments(jobs), output_type="np")

    def _job(self, case: Case, **changes: Any) -> GenerateJob:
        depth = np.tile(np.linspace(0, 255, self._side).astype(np.uint8), (self._side, 1))
        job = make_job(
            depth, model="lightning", steps=2 if self._miniature else case.steps,
            guidance_scale=case.guidance, decoder=case.decoder, control_guidance_end=0.8,
            output_format="jpeg",
        )  # fmt: skip
        return replace(job, **changes)

    def _roofline(self, job: GenerateJob, seconds: float) -> float | None:
        """The share of the card's data sheet that was reached; None for a card not known."""
        if self._miniature or self.device.torch_device.type != "cuda":
            return None
        gpu = known_gpu(torch.cuda.get_device_name())
        if gpu is None:
            return None
        variant, controlnet, device = sdxl("lightning", "small")
        counted = operations(job, variant, controlnet, device) / 1e12
        return counted / seconds / gpu.tflops

    def _read_loras(self, folder: Path) -> None:
        variant, _ = self._networks
        rank = 4 if self._miniature else 32
        for number, name in enumerate(("drone", "experimance")):
            path = folder / f"{name}.safetensors"
            write_lora(path, variant.unet, rank, number)
            variant.loras.add(name, path)

    def _lora_switch(self) -> dict[str, float]:
        """Time two requests with different LoRAs against two with equal ones, per step."""
        case = CASES[0]
        sets = ((LoraWeight("drone", 0.8), LoraWeight("experimance", 0.4)),
                (LoraWeight("drone", 0.3), LoraWeight("experimance", 0.6)))  # fmt: skip

        def both(first: Any, second: Any) -> None:
            for loras in (first, second):
                self._paint(self._job(case, loras=loras), 1)

        seconds = self._take_turns(
            {"equal": lambda: both(sets[0], sets[0]), "other": lambda: both(*sets)}
        )
        steps = 2 * self._job(case).steps
        return {
            "switch": (seconds["other"] - seconds["equal"]) / 2,
            "a step": seconds["equal"] / steps,
        }

    def _return(self) -> dict[str, float]:
        """Time the copy of a UNet's weights from pinned host memory to the device."""
        weights = list(self._networks[0].unet.parameters())
        host = [tensor.cpu() for tensor in weights]
        if self.device.torch_device.type == "cuda":
            host = [tensor.pin_memory() for tensor in host]
        device = self.device.torch_device
        seconds = self._seconds(lambda: [tensor.to(device, non_blocking=True) for tensor in host])
        return {"seconds": seconds, "GB": sum(tensor.nbytes for tensor in host) / 1e9}

    def _compile(self) -> float:
        backend = "eager" if self._miniature else "inductor"
        compiler = Compiler("regional", backend, self.device)
        return self._seconds(lambda: compiler.compile_unet(self._networks[0], self.device))

    def _fits(self, name: str) -> bool:
        if time.monotonic() < self._ends:
            return True
        self.left_out.append(name)
        return False


def _device(miniature: bool) -> Device:
    """Return the best device.

    Raises:
        SystemExit: no GPU is present, and the report is not in miniature.
    """
    best = Device.best()
    if best.torch_device.type != "cuda" and not miniature:
        raise SystemExit("no GPU found: --miniature runs a trial on any device")
    return best


def main() -> None:
    """Measure, print a table, and finish with the ratio for six steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument(
        "--output", type=Path, default=None, help="also write the table to this file"
    )
    parser.add_argument("--miniature", action="store_true")
    options = parser.parse_args()
    quiet = structlog.make_filtering_bound_logger(logging.WARNING)
    structlog.configure(wrapper_class=quiet)
    report = Report(options.minutes, options.miniature)
    card = report.device.torch_device
    name = torch.cuda.get_device_name() if card.type == "cuda" else "CPU"
    table = [f"{name}, torch {torch.__version__}", "", "| | figures |", "|---|---|"]
    figures = {}
    for line, values in report.lines():
        figures[line] = {key: round(value, 4) for key, value in values.items()}
        shown = ", ".join(f"{key} {value:.4g}" for key, value in values.items())
        table.append(f"| {line} | {shown} |")
        print(table[-1], flush=True)
    if options.output is not None:
        options.output.write_text("\n".join(table) + "\n", encoding="utf-8")
    ratio = figures["6 steps, batch 1, eager"]["ratio"]
    passed = options.miniature or ratio <= BAR
    finish(ratio, BAR, passed, device=name, figures=figures, left_out=report.left_out)


if __name__ == "__main__":
    main()
