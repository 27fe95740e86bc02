"""Latents to pixels: by the autoencoder, or by a linear map for previews."""

from __future__ import annotations

import numpy as np
import torch

from runners.networks import Variant
from runners.sample import Sample

Pixels = np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]


@torch.inference_mode()
def decode_latents(latents: torch.Tensor, variant: Variant) -> Pixels:
    """Decode final latents, float32 [1, 4, h/8, w/8], to uint8 [h, w, 3] in host memory."""
    vae = variant.vae
    scaled = latents.to(vae.dtype) / vae.config.scaling_factor
    picture = vae.decode(scaled, return_dict=False)[0]
    return _to_pixels(picture[0] / 2 + 0.5)


@torch.inference_mode()
def preview(sample: Sample, noise_prediction: torch.Tensor) -> Pixels | None:
    """What the picture would be if it were finished now, at 1/8 of its size.

    The denoised latents follow from the sample in its variance-preserving form, which
    `scale_model_input` gives for every scheduler, and the predicted noise (DDPM, Ho et al. 2020,
    equation 15); the catalog's linear map stands in for the decoder. None where it has none.
    """
    matrix = sample.variant.spec.latent_rgb
    if matrix is None:
        return None
    position = float(sample.timesteps[sample.index])
    alphas = sample.scheduler.alphas_cumprod.numpy()
    alpha = float(np.interp(position, np.arange(len(alphas)), alphas))
    noisy = sample.model_input()
    if sample.variant.spec.scheduler.prediction_type == "v_prediction":
        denoised = alpha**0.5 * noisy - (1 - alpha) ** 0.5 * noise_prediction
    else:
        denoised = (noisy - (1 - alpha) ** 0.5 * noise_prediction) / alpha**0.5
    weights = torch.tensor(matrix, device=denoised.device, dtype=denoised.dtype)
    picture = torch.einsum("chw,cr->rhw", denoised[0], weights[:-1]) + weights[-1][:, None, None]
    return _to_pixels(picture)


def _to_pixels(picture: torch.Tensor) -> Pixels:
    """[3, h, w] in [0, 1] to uint8 [h, w, 3], rounded as diffusers rounds."""
    scaled = picture.float().clamp(0, 1).mul(255).round().to(torch.uint8)
    pixels: Pixels = scaled.permute(1, 2, 0).cpu().numpy()
    return pixels
