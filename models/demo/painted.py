"""Pictures that the demo set itself paints, with the depth they were painted from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    ControlNetModel,
    EulerDiscreteScheduler,
    StableDiffusionXLControlNetPipeline,
    UNet2DConditionModel,
)
from numpy.typing import NDArray
from PIL import Image

from models.demo.denoiser import NOISE
from models.demo.eras import ERAS
from models.demo.fields import Size
from models.demo.looks import LOOKS
from models.demo.prompts import make_prompt
from models.demo.terrain import make_terrain

Bytes = NDArray[np.uint8]

PAINTERS = ("lightning", "hyper")
STEPS = 6


@dataclass(frozen=True)
class PaintedSpec:
    """`batches` of `batch` pictures of one size; the pictures of a batch share era, variant, and
    how strongly each LoRA acts."""

    size: Size
    batches: int
    batch: int
    seed: int


@dataclass(frozen=True)
class Painted:
    """Depths (n, h, w) and pictures (n, h, w, 3), both uint8 on disk."""

    depths: Bytes
    pictures: Bytes


def open_painted(spec: PaintedSpec, weights: Path, folder: Path) -> Painted:
    """The pictures in `folder`, painted now by the exported set in `weights` if they are not there
    yet or were made from another spec."""
    depths_path, pictures_path = folder / "painted-depths.npy", folder / "painted.npy"
    stamp = folder / "painted.json"
    wanted = json.dumps(asdict(spec) | {"eras": list(ERAS)})
    if not stamp.exists() or stamp.read_text() != wanted:
        folder.mkdir(parents=True, exist_ok=True)
        depths, pictures = zip(*_painted(spec, weights), strict=True)
        np.save(depths_path, np.concatenate(depths))
        np.save(pictures_path, np.concatenate(pictures))
        stamp.write_text(wanted)
    return Painted(np.load(depths_path, "r"), np.load(pictures_path, "r"))


def _painted(spec: PaintedSpec, weights: Path) -> Iterator[tuple[Bytes, Bytes]]:
    pipelines = [_pipeline(weights, variant) for variant in PAINTERS]
    for number in range(spec.batches):
        rng = np.random.default_rng(spec.seed + number)
        era = list(ERAS)[number % len(ERAS)]
        seeds = range(number * spec.batch, (number + 1) * spec.batch)
        depths = [make_terrain(spec.seed + seed, spec.size).depth for seed in seeds]
        pipeline = pipelines[(number // len(ERAS)) % len(pipelines)]
        pipeline.set_adapters(list(LOOKS), [float(rng.uniform(0, 1.1)) for _ in LOOKS])
        pictures = pipeline(
            [make_prompt(rng, era) for _ in seeds],
            image=[Image.fromarray(depth).convert("RGB") for depth in depths],
            height=spec.size[0],
            width=spec.size[1],
            num_inference_steps=STEPS,
            guidance_scale=1.0,
            controlnet_conditioning_scale=float(rng.uniform(0.7, 1.0)),
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="np",
        ).images
        yield np.stack(depths), np.rint(pictures * 255).astype(np.uint8)


def _pipeline(weights: Path, variant: str) -> Any:
    """diffusers' pipeline of a variant, both LoRAs loaded."""
    unet = UNet2DConditionModel.from_pretrained(
        weights / variant / "unet", use_safetensors=True, dtype=torch.float32
    )
    controlnet = ControlNetModel.from_pretrained(
        weights / "controlnet", use_safetensors=True, dtype=torch.float32
    )
    pipeline = StableDiffusionXLControlNetPipeline.from_pretrained(
        weights,
        unet=unet,
        controlnet=controlnet,
        use_safetensors=True,
        dtype=torch.float32,
        add_watermarker=False,
    )
    pipeline.scheduler = EulerDiscreteScheduler(**NOISE, timestep_spacing="trailing")
    for look in LOOKS:
        pipeline.load_lora_weights(weights / "loras" / f"{look}.safetensors", adapter_name=look)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
