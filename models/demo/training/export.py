"""Export of the trained networks as a diffusers folder in float16."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTokenizer

from models.demo.training.data.tokenizer import save_tokenizer
from models.demo.training.networks.denoiser import NOISE, Denoiser


@dataclass(frozen=True)
class DemoSet:
    """Result of a training run; `students` are UNets by variant, `loras` are files."""

    autoencoder: AutoencoderKL
    denoiser: Denoiser
    tokenizer: CLIPTokenizer
    tiny: AutoencoderTiny
    students: Mapping[str, UNet2DConditionModel]
    loras: Iterable[Path]


def export(demo: DemoSet, folder: Path) -> None:
    """Replace `folder` with the exported set; the swap is a rename of the complete folder.

    The base is a diffusers pipeline. Its folder also has `controlnet`, `tiny_decoder`,
    `<student>/unet` and `loras/<name>.safetensors`.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    half = copy.deepcopy(demo.denoiser).half()
    StableDiffusionXLPipeline(
        vae=copy.deepcopy(demo.autoencoder).half(),
        text_encoder=half.text_encoder,
        text_encoder_2=half.text_encoder_2,
        tokenizer=demo.tokenizer,
        tokenizer_2=demo.tokenizer,
        unet=half.unet,
        scheduler=EulerDiscreteScheduler(**NOISE, timestep_spacing="leading", steps_offset=1),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    ).save_pretrained(partial)
    half.controlnet.save_pretrained(partial / "controlnet")
    _save_tiny(demo.tiny, partial / "tiny_decoder")
    for name, unet in demo.students.items():
        copy.deepcopy(unet).half().save_pretrained(partial / name / "unet")
    (partial / "loras").mkdir()
    for path in demo.loras:
        shutil.copyfile(path, partial / "loras" / path.name)
    for name in ("tokenizer", "tokenizer_2"):
        save_tokenizer(demo.tokenizer, partial / name)
    previous = folder.with_name(folder.name + ".previous")
    shutil.rmtree(previous, ignore_errors=True)
    if folder.exists():
        folder.rename(previous)
    partial.rename(folder)
    shutil.rmtree(previous, ignore_errors=True)


def _save_tiny(tiny: AutoencoderTiny, folder: Path) -> None:
    """Save without `block_out_channels`, which diffusers writes but warns about when loading."""
    copy.deepcopy(tiny).half().save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["block_out_channels"]
    path.write_text(json.dumps(config, indent=2) + "\n")
