"""Write the trained networks as a diffusers folder in half precision."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline
from transformers import CLIPTokenizer

from models.demo.denoiser import NOISE, Denoiser
from models.demo.tokenizer import save_tokenizer


def export(
    autoencoder: AutoencoderKL, denoiser: Denoiser, tokenizer: CLIPTokenizer, folder: Path
) -> None:
    """Replace `folder` by the pipeline and its ControlNet; readers never see half of it."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    half = copy.deepcopy(denoiser).half()
    StableDiffusionXLPipeline(
        vae=copy.deepcopy(autoencoder).half(),
        text_encoder=half.text_encoder,
        text_encoder_2=half.text_encoder_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=half.unet,
        scheduler=EulerDiscreteScheduler(**NOISE, timestep_spacing="leading", steps_offset=1),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    ).save_pretrained(partial)
    half.controlnet.save_pretrained(partial / "controlnet")
    for name in ("tokenizer", "tokenizer_2"):
        save_tokenizer(tokenizer, partial / name)
    previous = folder.with_name(folder.name + ".previous")
    shutil.rmtree(previous, ignore_errors=True)
    if folder.exists():
        folder.rename(previous)
    partial.rename(folder)
    shutil.rmtree(previous, ignore_errors=True)
