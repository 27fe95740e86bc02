"""Difference between the tiny and the full decoder's images of the same latents."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn

import runners.engine.engine
import runners.engine.output_stage
from benchmarks.support.quality.gallery import Pairs, paint_pairs
from runners.diffusion.vae import PixelTransfer, decode_latents, start_decode
from runners.networks.sdxl import SdxlModel
from testing.workbench import demo_networks

ERROR_BAR = 0.05
"""Largest mean absolute difference, of values in [0, 1]."""


@dataclass(frozen=True, slots=True)
class DecoderError:
    """Errors and costs of the tiny decoder, over several images.

    Args:
        mean: mean absolute difference, of values in [0, 1].
        psnr: peak signal-to-noise ratio in dB.
        full_macs: multiply-adds of the full decoder per output pixel.
        tiny_macs: multiply-adds of the tiny decoder per output pixel.
        speedup: median ratio of the full decoder's time to the tiny one's.
    """

    mean: float
    psnr: float
    full_macs: float
    tiny_macs: float
    speedup: float


def measure(pairs: Pairs, model: str) -> DecoderError:
    """Generate the pairs, and decode each one's final latents with both decoders."""
    variant, _ = demo_networks(model)
    squared, absolute, ratios = [], [], []
    for latents in _final_latents(pairs, model):
        started = time.perf_counter()
        full = decode_latents(latents, variant, "full").astype(np.float32) / 255
        between = time.perf_counter()
        tiny = decode_latents(latents, variant, "tiny").astype(np.float32) / 255
        ratios.append((between - started) / (time.perf_counter() - between))
        squared.append(float(((full - tiny) ** 2).mean()))
        absolute.append(float(np.abs(full - tiny).mean()))
    return DecoderError(
        mean=float(np.mean(absolute)),
        psnr=float(-10 * np.log10(np.mean(squared))),
        full_macs=macs_per_pixel(variant.vae),
        tiny_macs=macs_per_pixel(variant.tiny_decoder),
        speedup=median(ratios),
    )


def _final_latents(pairs: Pairs, model: str) -> list[torch.Tensor]:
    recorded: list[torch.Tensor] = []

    def record(latents: torch.Tensor, variant: SdxlModel, decoder: str = "full") -> PixelTransfer:
        recorded.append(latents)
        return start_decode(latents, variant, decoder)

    with mock.patch.object(runners.engine.output_stage, "start_decode", record):
        paint_pairs(pairs, model)
    return recorded


@torch.inference_mode()
def macs_per_pixel(decoder: Any, side: int = 32) -> float:
    """Count multiply-adds of all convolutions and linear layers per output pixel."""
    total = 0

    def count(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        total += output.numel() * weight[0].numel()

    hooks = [
        module.register_forward_hook(count)
        for module in decoder.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    decoder.decode(torch.zeros(1, 4, side, side))
    for hook in hooks:
        hook.remove()
    return total / (8 * side) ** 2
