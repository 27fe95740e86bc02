"""Previews: the predicted final image of a step, decoded by the tiny decoder."""

from __future__ import annotations

import torch
from torch.nn.functional import interpolate

from runners.diffusion.sample import Sample
from runners.diffusion.vae import PixelTransfer, start_decode

PREVIEW_LATENTS = 64
"""Longest side of a preview's latents (512 pixels), which bounds its cost at every image size."""


@torch.inference_mode()
def start_preview(sample: Sample, noise_prediction: torch.Tensor) -> PixelTransfer | None:
    """Decode the predicted final image, with at most 512 pixels per side.

    Return None if the variant has no tiny decoder.

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
    return start_decode(denoised, sample.variant, "tiny")


def _predict_denoised(sample: Sample, noise_prediction: torch.Tensor) -> torch.Tensor:
    """Return the predicted denoised latents, float32 [1, 4, h/8, w/8].

    Compute them from the predicted noise and the sample in variance-preserving form, which
    the scaled input has with every scheduler (DDPM, arXiv:2006.11239, equation 15).
    """
    alpha = sample.plan.steps[sample.index].alpha
    noisy = sample.model_input()
    if sample.variant.spec.scheduler.prediction_type == "v_prediction":
        return alpha**0.5 * noisy - (1 - alpha) ** 0.5 * noise_prediction
    return (noisy - (1 - alpha) ** 0.5 * noise_prediction) / alpha**0.5
