"""Stages of `benchmarks.load`, each measured in a process of its own.

    python -m benchmarks.support.load_stages STAGE FOLDER [small]

Prints one JSON line last: seconds since the parent started the process, peak bytes of memory, and
the stage's results. Functions import what they need, because imports are part of the measurement.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STARTED = "BENCHMARK_STARTED"
"""Environment variable: the parent's monotonic clock, in seconds, at the process's start."""
SIZE = 256
STEPS = 3
_PROMPT = "aerial photography, untouched wilderness"
_BUFFER_BYTES = 8 * 2**20


def elapsed() -> float:
    """Return the seconds since the parent started this process."""
    return time.perf_counter() - float(os.environ[STARTED])


def peak_bytes() -> int:
    """Return the peak resident memory of this process, mapped pages included."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def bare(folder: Path, small: bool) -> dict[str, Any]:
    """Do nothing, to measure the interpreter alone."""
    return {}


def split(folder: Path, small: bool) -> dict[str, Any]:
    """Run our conversion."""
    from models.conversion.checkpoint import split_checkpoint
    from testing.sdxl_set import CHECKPOINT, write_configurations

    configs = write_configurations(folder / "configs", small)
    split_checkpoint(folder / CHECKPOINT, folder / "converted", "bfloat16", configs=configs)
    return {}


def plain_split(folder: Path, small: bool) -> dict[str, Any]:
    """Run diffusers' conversion."""
    _plain_pipeline(folder).save_pretrained(folder / "converted")
    return {}


def import_set(folder: Path, small: bool) -> dict[str, Any]:
    """Run the whole import: conversion, digests, store."""
    from functools import partial
    from unittest import mock

    import models.conversion.components
    from models.__main__ import main
    from models.conversion.checkpoint import split_checkpoint
    from testing.sdxl_set import write_configurations

    configs = write_configurations(folder / "configs", small)
    with mock.patch.object(
        models.conversion.components, "split_checkpoint", partial(split_checkpoint, configs=configs)
    ):
        status = main(["import", "--catalog", str(folder / "load.toml")])
    assert status == 0
    return {}


def first_step(folder: Path, small: bool) -> dict[str, Any]:
    """Time the engine from its start to its first finished steps."""
    model_cache, device = _model_cache(folder)
    variant, controlnet = model_cache.load_variant("first"), model_cache.load_controlnet("depth")
    loaded = elapsed()
    ends = _steps(variant, controlnet, device, elapsed)
    return {"loaded": loaded, "ends": ends}


def plain_first_step(folder: Path, small: bool) -> dict[str, Any]:
    """Time a diffusers pipeline, loaded from the checkpoint, to its first finished steps."""
    import torch
    from diffusers import ControlNetModel

    from testing.sdxl_set import CONTROLNET

    controlnet = ControlNetModel.from_pretrained(folder / CONTROLNET, dtype=torch.bfloat16)
    pipeline = _plain_pipeline(folder, controlnet=controlnet)
    pipeline.set_progress_bar_config(disable=True)
    loaded = elapsed()
    ends: list[float] = []

    def note(_: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        ends.append(elapsed())
        return tensors

    pipeline(
        prompt=_PROMPT,
        image=torch.zeros(1, 3, SIZE, SIZE),
        width=SIZE,
        height=SIZE,
        num_inference_steps=STEPS,
        guidance_scale=1.0,
        output_type="latent",
        callback_on_step_end=note,
        callback_on_step_end_tensor_inputs=["latents"],
    )
    return {"loaded": loaded, "ends": ends}


def read_bytes(folder: Path, small: bool) -> dict[str, Any]:
    """Read the same files into memory."""
    return {"bytes": _read(folder)}


def read_bytes_after_imports(folder: Path, small: bool) -> dict[str, Any]:
    """Read the same files into memory, after importing the same libraries."""
    _model_cache(folder)
    return {"bytes": _read(folder)}


def read_past(folder: Path, small: bool) -> dict[str, Any]:
    """Read the same files through one small buffer, without keeping them."""
    buffer = bytearray(_BUFFER_BYTES)
    total = 0
    for path in _stored_files(folder):
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                total += count
    return {"bytes": total}


def second_variant(folder: Path, small: bool) -> dict[str, Any]:
    """Load a variant that shares all but the UNet with a resident one."""
    model_cache, device = _model_cache(folder)
    controlnet = model_cache.load_controlnet("depth")
    first = model_cache.load_variant("first")
    _steps(first, controlnet, device, elapsed)
    before, read_before = _mapped_files(folder), _read_by_calls()
    started = time.perf_counter()
    second = model_cache.load_variant("second")
    seconds = time.perf_counter() - started
    _steps(second, controlnet, device, elapsed)
    # The order keeps the reading of /proc itself out of both differences.
    read_after, after = _read_by_calls(), _mapped_files(folder)
    common = [
        (variant.vae, *variant.tokenizers, *variant.text_encoders) for variant in (first, second)
    ]
    shared = all(ours is theirs for ours, theirs in zip(*common, strict=True))
    new = {name: size for name, size in after.items() if size > before.get(name, 0)}
    return {
        "shared": shared and first.unet is not second.unet,
        "seconds": seconds,
        "mapped": sum(size - before.get(name, 0) for name, size in new.items()),
        "read": read_after - read_before,
    }


def _model_cache(folder: Path) -> tuple[Any, Any]:
    """Import the engine's modules as the runner does, and return its model cache and device."""
    from common.process_memory import gc_frozen_after

    with gc_frozen_after():
        import torch

        from models.catalog import load_catalog
        from models.store.inventory import LiveInventory
        from runners.device import Device
        from runners.engine.engine import Engine  # noqa: F401
        from runners.weights.model_cache import ModelCache

    catalog = load_catalog(str(folder / "load.toml"))
    device = Device(torch.device("cpu"), torch.bfloat16)
    return ModelCache(catalog, LiveInventory(catalog), device), device


def _steps(variant: Any, controlnet: Any, device: Any, clock: Callable[[], float]) -> list[float]:
    """Condition a request, run its steps, and return the time at the end of each."""
    from common.protocol import GenerateJob
    from runners.diffusion.conditioning import ConditioningBuilder
    from runners.diffusion.denoise import predict_noise
    from runners.diffusion.sample import Sample

    job = GenerateJob(
        request_id="load", subscriber="", model=variant.name, controlnet=controlnet.name,
        prompt=_PROMPT, negative_prompt=None, seed=0, num_images=1, steps=STEPS,
        guidance_scale=1.0, controlnet_strength=1.0, control_guidance_start=0.0,
        control_guidance_end=1.0, scheduler="auto", use_karras_sigmas=None, width=SIZE,
        height=SIZE, output_format="jpeg", quality=90, depth=bytes(SIZE * SIZE),
    )  # fmt: skip
    conditioning = ConditioningBuilder(device).build(job, variant, controlnet)
    sample = Sample(job, 0, variant, controlnet, conditioning)
    ends = []
    while not sample.done:
        sample.advance(predict_noise([sample], device)[0])
        assert sample.latents.isfinite().all()
        ends.append(clock())
    return ends


def _plain_pipeline(folder: Path, **components: Any) -> Any:
    import diffusers
    import torch

    from testing.sdxl_set import CHECKPOINT

    name = "StableDiffusionXLControlNetPipeline" if components else "StableDiffusionXLPipeline"
    return getattr(diffusers, name).from_single_file(
        str(folder / CHECKPOINT),
        config=str(folder / "pipeline"),
        local_files_only=True,
        dtype=torch.bfloat16,
        add_watermarker=False,
        **components,
    )


def _stored_files(folder: Path) -> list[Path]:
    """Return the store's weight files of `first` and the ControlNet."""
    listed = (folder / "first_files.json").read_text(encoding="utf-8")
    return [Path(name) for name in json.loads(listed)]


def _read(folder: Path) -> int:
    kept = []
    for path in _stored_files(folder):
        buffer = bytearray(path.stat().st_size)
        rest = memoryview(buffer)
        with path.open("rb", buffering=0) as file:
            while rest:
                rest = rest[file.readinto(rest) :]
        kept.append(buffer)
    return sum(map(len, kept))


def _mapped_files(folder: Path) -> dict[str, int]:
    """Return the bytes of the store's files mapped by this process, by file."""
    mapped: dict[str, int] = {}
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].endswith(".safetensors"):
            start, end = (int(number, 16) for number in fields[0].split("-"))
            mapped[fields[5]] = mapped.get(fields[5], 0) + end - start
    return mapped


def _read_by_calls() -> int:
    """Return the bytes that this process has read with read calls."""
    counters = Path("/proc/self/io").read_text(encoding="utf-8")
    return int(counters.split()[1])


STAGES: dict[str, Callable[[Path, bool], dict[str, Any]]] = {
    stage.__name__: stage
    for stage in (
        bare, split, plain_split, import_set, first_step, plain_first_step, read_bytes,
        read_bytes_after_imports, read_past, second_variant,
    )
}  # fmt: skip


if __name__ == "__main__":
    result = STAGES[sys.argv[1]](Path(sys.argv[2]), "small" in sys.argv[3:])
    print(json.dumps({"elapsed": elapsed(), "peak": peak_bytes(), **result}))
