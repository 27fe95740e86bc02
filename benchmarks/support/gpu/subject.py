"""Subject of the GPU report: the engine and diffusers' pipeline on the same random networks."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from msgspec.structs import replace
from PIL import Image

from benchmarks.support.plain_pipeline import plain_pipeline
from common.protocol import GenerateJob, LoraWeight
from runners.device import Device
from runners.device_timer import CudaSpan
from runners.diffusion.conditioning import ConditioningBuilder
from runners.diffusion.sample import Sample
from runners.diffusion.schedulers import build_scheduler
from runners.engine.engine import Engine
from testing.fused_loras import fuse_loras
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

LORAS = (LoraWeight("drone", 0.8), LoraWeight("experimance", 0.4))
"""The set of the installation's requests."""
OTHER_LORAS = (LoraWeight("drone", 0.3), LoraWeight("experimance", 0.6))
STEPS = 6
GUIDANCE = 2.0
_MINIATURE_STEPS = 2
_MAX_ROWS = 8


class Subject:
    """Networks of SDXL's size with random weights on one device, and two LoRAs of rank 32.

    Args:
        miniature: narrow networks and small images, on any device.
        folder: an empty folder for the LoRAs' files.

    Raises:
        SystemExit: no GPU is present, and the report is not in miniature.
    """

    def __init__(self, miniature: bool, folder: Path) -> None:
        self.device = Device.best()
        self.on_gpu = self.device.torch_device.type == "cuda"
        if not self.on_gpu and not miniature:
            raise SystemExit("no GPU found: --miniature runs a trial on any device")
        self.miniature = miniature
        self.side = 64 if miniature else 1024
        self.repetitions = 1 if miniature else 3
        parts = random_parts(self.device, miniature)
        # Before the engine takes the ControlNet apart.
        self._plain_parts = shared_copies(parts)
        self.networks = engine_networks(parts, self.side)
        self.lora_files: dict[str, Path] = {}
        self._fused: tuple[LoraWeight, ...] = ()
        for number, lora in enumerate(LORAS):
            path = folder / f"{lora.name}.safetensors"
            write_lora(path, self.networks[0].unet, 4 if miniature else 32, number)
            self.networks[0].loras.add(lora.name, path)
            self.lora_files[lora.name] = path

    @cached_property
    def pipeline(self) -> Any:
        """Diffusers' pipeline on the same tensors and a UNet of its own; no LoRA is fused yet."""
        scheduler = build_scheduler(lightning_spec(self.side).scheduler, "auto", None)
        # Fusing writes into the weights.
        own = {"unet": deepcopy(self._plain_parts["unet"])}
        made = plain_pipeline({**self._plain_parts, **own}, scheduler)
        for name, path in self.lora_files.items():
            made.load_lora_weights(path.parent, weight_name=path.name, adapter_name=name)
        made.disable_lora()
        return made

    def job(
        self, guidance: float = GUIDANCE, loras: Sequence[LoraWeight] = LORAS, **changes: Any
    ) -> GenerateJob:
        """Return the installation's request: guidance, two LoRAs, control for 80 % of the steps."""
        depth = np.tile(np.linspace(0, 255, self.side).astype(np.uint8), (self.side, 1))
        job = make_job(
            depth, model="lightning", steps=_MINIATURE_STEPS if self.miniature else STEPS,
            guidance_scale=guidance, loras=tuple(loras), control_guidance_end=0.8,
            output_format="png",
        )  # fmt: skip
        return replace(job, **changes)

    def engine(self, max_rows: int = _MAX_ROWS) -> Engine:
        """Return a new engine on the networks; the caller must tick it."""
        loader: Any = ResidentLoader({"lightning": self.networks})
        engine = Engine(loader, self.device)
        engine.cost.max_batch_rows = max_rows
        return engine

    def paint(self, job: GenerateJob, batch: int = 1) -> list[np.ndarray[Any, Any]]:
        """Return images of a job with the seeds 0 to `batch - 1`, painted together."""
        engine = self.engine()
        listeners = [Listener() for _ in range(batch)]
        for number, listener in enumerate(listeners):
            engine.submit(replace(job, request_id=str(number), seed=number), listener)
        ends = finished(engine, listeners)
        return [np.asarray(Image.open(io.BytesIO(end.images[0]))) for end in ends]

    def _fuse(self, loras: tuple[LoraWeight, ...]) -> None:
        """Fuse exactly these LoRAs into the pipeline's UNet."""
        if loras == self._fused:
            return
        fuse_loras(self.pipeline, loras)
        self._fused = loras

    def paint_plain(self, job: GenerateJob, batch: int = 1) -> list[np.ndarray[Any, Any]]:
        """Return the same images from diffusers' pipeline."""
        spec = lightning_spec(self.side).scheduler
        self.pipeline.scheduler = build_scheduler(spec, job.scheduler, None)
        self._fuse(job.loras)
        jobs = [replace(job, seed=number) for number in range(batch)]
        images = self.pipeline(**reference_arguments(jobs), output_type="np").images
        return [(255 * image).round().astype(np.uint8) for image in images]

    def samples(self, job: GenerateJob, count: int = 1) -> list[Sample]:
        """Return `count` samples of a job before their first step."""
        several = replace(job, num_images=count)
        conditioning = ConditioningBuilder(self.device).build(several, *self.networks)
        return [Sample(several, n, *self.networks, conditioning) for n in range(count)]

    def wait(self) -> None:
        """Wait until the device is idle."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object]) -> float:
        """Return the seconds of a call on an idle device, until it is idle again."""
        self.wait()
        started = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - started

    def best_of(self, ways: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        """Return the least seconds of each way, taken in turns; the first calls do not count."""
        best = dict.fromkeys(ways, float("inf"))
        for work in ways.values():
            work()
        for _ in range(self.repetitions):
            for way, work in ways.items():
                best[way] = min(best[way], self.seconds(work))
        return best

    def host_and_device(self, work: Callable[[], object], calls: int = 5) -> tuple[float, float]:
        """Return the host's seconds and the device's of one call, from several in a row."""
        calls = 1 if self.miniature else calls
        work()
        self.wait()
        span = CudaSpan() if self.on_gpu else None
        started = time.perf_counter()
        for _ in range(calls):
            work()
        host = time.perf_counter() - started
        if span is None:
            return host / calls, host / calls
        span.stop()
        self.wait()
        return host / calls, (span.seconds or 0.0) / calls
