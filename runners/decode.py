"""Latents to pixels: by the autoencoder, or by a tiny decoder, which paints the previews too."""

from __future__ import annotations

import math
from copy import deepcopy

import numpy as np
import torch
from torch.nn.functional import interpolate

from runners import tiling
from runners.networks import Variant
from runners.sample import Sample

Pixels = np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]

PREVIEW_LATENTS = 64
"""Longest side of a preview's latents: 512 pixels, so that it costs the same at every size."""


class NotFiniteError(RuntimeError):
    """A decoder gave pixels that are no numbers; drawn, they would be a black picture."""


@torch.inference_mode()
def decode_latents(
    latents: torch.Tensor, variant: Variant, decoder: str = "full", in_float32: bool = False
) -> Pixels:
    """Decode final latents, float32 [1, 4, h/8, w/8], to uint8 [h, w, 3] in host memory.

    Args:
        latents: of one picture.
        variant: whose decoder it is.
        decoder: `full`, or `tiny` for variants that have one.
        in_float32: by a copy of the decoder, made for this picture: 0.3 GB for SDXL's.

    Raises:
        NotFiniteError: latents that are no numbers, or a decoder that overflows in its precision.
    """
    network = variant.vae if decoder == "full" else variant.tiny_decoder
    if in_float32:
        network = deepcopy(network).float()
    scaled = latents.to(network.dtype) / network.config.scaling_factor
    picture = tiling.decode(network, scaled)
    return _to_pixels(picture[0] / 2 + 0.5)


@torch.inference_mode()
def preview(sample: Sample, noise_prediction: torch.Tensor) -> Pixels | None:
    """What the picture would be if it were finished now, at 512 pixels at most.

    None where the variant has no tiny decoder, or where it overflows: the picture itself may not.
    """
    if sample.variant.tiny_decoder is None:
        return None
    denoised = _denoised(sample, noise_prediction)
    shrink = PREVIEW_LATENTS / max(denoised.shape[-2:])
    if shrink < 1:
        denoised = interpolate(denoised, scale_factor=shrink, mode="area")
    try:
        return decode_latents(denoised, sample.variant, "tiny")
    except NotFiniteError:
        return None


def _denoised(sample: Sample, noise_prediction: torch.Tensor) -> torch.Tensor:
    """The latents that the prediction leads to, [1, 4, h/8, w/8].

    They follow from the sample in its variance-preserving form, which `scale_model_input` gives
    for every scheduler, and the predicted noise (DDPM, Ho et al. 2020, equation 15).
    """
    position = float(sample.timesteps[sample.index])
    alphas = sample.scheduler.alphas_cumprod.numpy()
    alpha = float(np.interp(position, np.arange(len(alphas)), alphas))
    noisy = sample.model_input()
    if sample.variant.spec.scheduler.prediction_type == "v_prediction":
        return alpha**0.5 * noisy - (1 - alpha) ** 0.5 * noise_prediction
    return (noisy - (1 - alpha) ** 0.5 * noise_prediction) / alpha**0.5


def _to_pixels(picture: torch.Tensor) -> Pixels:
    """[3, h, w] in [0, 1] to uint8 [h, w, 3], rounded as diffusers rounds."""
    # Not a number or infinite if any pixel is; on its way before the pixels, for which we wait.
    total = picture.sum(dtype=torch.float32).to("cpu", non_blocking=True)
    scaled = picture.float().clamp(0, 1).mul(255).round().to(torch.uint8)
    pixels: Pixels = scaled.permute(1, 2, 0).cpu().numpy()
    if not math.isfinite(total.item()):
        raise NotFiniteError("the decoder gave pixels that are no numbers")
    return pixels
