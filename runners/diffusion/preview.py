"""Previews: the predicted final image of a step, decoded by the tiny decoder."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import interpolate

from runners.diffusion.sample import Sample
from runners.diffusion.vae import Pixels, decode_latents
from runners.errors import NonFiniteError

PREVIEW_LATENTS = 64
"""Longest side of a preview's latents (512 pixels), which bounds its cost at every image size."""


@torch.inference_mode()
def preview(sample: Sample, noise_prediction: torch.Tensor) -> Pixels | None:
    """Return the predicted final image, uint8 [h, w, 3] of at most 512 pixels per side.

    Return None if the variant has no tiny decoder, or if that decoder produces NaN or infinity,
    because the full decoder may still succeed.

    Args:
        sample: the sample before it advances.
        noise_prediction: the guided prediction, float32 [1, 4, h/8, w/8].
    """
    if sample.variant.tiny_decoder is None:
        return None
    denoised = _predict_denoised(sample, noise_prediction)
    shrink = PREVIEW_LATENTS / max(denoised.shape[-2:])
    if shrink < 1:
        denoised = interpolate(denoised, scale_factor=shrink, mode="area")
    try:
        return decode_latents(denoised, sample.variant, "tiny")
    except NonFiniteError:
        return None


def _predict_denoised(sample: Sample, noise_prediction: torch.Tensor) -> torch.Tensor:
    """Return the predicted denoised latents, float32 [1, 4, h/8, w/8].

    Compute them from the predicted noise and the sample in variance-preserving form, which
    `scale_model_input` yields for every scheduler (DDPM, arXiv:2006.11239, equation 15).
    """
    position = float(sample.timesteps[sample.index])
    alphas = sample.scheduler.alphas_cumprod.numpy()
    alpha = float(np.interp(position, np.arange(len(alphas)), alphas))
    noisy = sample.model_input()
    if sample.variant.spec.scheduler.prediction_type == "v_prediction":
        return alpha**0.5 * noisy - (1 - alpha) ** 0.5 * noise_prediction
    return (noisy - (1 - alpha) ** 0.5 * noise_prediction) / alpha**0.5
