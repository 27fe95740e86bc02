"""Write the trained networks as a diffusers folder in half precision."""

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

from models.demo.denoiser import NOISE, Denoiser
from models.demo.tokenizer import save_tokenizer


@dataclass(frozen=True)
class DemoSet:
    """All that a training run makes; `students` by variant, `loras` as files."""

    autoencoder: AutoencoderKL
    denoiser: Denoiser
    tokenizer: CLIPTokenizer
    tiny: AutoencoderTiny
    students: Mapping[str, UNet2DConditionModel]
    loras: Iterable[Path]


def export(made: DemoSet, folder: Path) -> None:
    """Replace `folder` by the set; readers never see half of it.

    The base is a diffusers pipeline; beside its components lie `controlnet`, `tiny_decoder`,
    `<student>/unet` and `loras/<name>.safetensors`.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    half = copy.deepcopy(made.denoiser).half()
    StableDiffusionXLPipeline(
        vae=copy.deepcopy(made.autoencoder).half(),
        text_encoder=half.text_encoder,
        text_encoder_2=half.text_encoder_2,
        tokenizer=made.tokenizer,
        tokenizer_2=made.tokenizer,
        unet=half.unet,
        scheduler=EulerDiscreteScheduler(**NOISE, timestep_spacing="leading", steps_offset=1),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    ).save_pretrained(partial)
    half.controlnet.save_pretrained(partial / "controlnet")
    _save_tiny(made.tiny, partial / "tiny_decoder")
    for name, unet in made.students.items():
        copy.deepcopy(unet).half().save_pretrained(partial / name / "unet")
    (partial / "loras").mkdir()
    for path in made.loras:
        shutil.copyfile(path, partial / "loras" / path.name)
    for name in ("tokenizer", "tokenizer_2"):
        save_tokenizer(made.tokenizer, partial / name)
    previous = folder.with_name(folder.name + ".previous")
    shutil.rmtree(previous, ignore_errors=True)
    if folder.exists():
        folder.rename(previous)
    partial.rename(folder)
    shutil.rmtree(previous, ignore_errors=True)


def _save_tiny(tiny: AutoencoderTiny, folder: Path) -> None:
    """Save without the entry that diffusers writes and, reading it again, warns about."""
    copy.deepcopy(tiny).half().save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["block_out_channels"]
    path.write_text(json.dumps(config, indent=2) + "\n")
