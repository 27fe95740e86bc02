"""Init images of image-to-image: encoding to latents and noising (SDEdit, arXiv:2108.01073)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from runners.diffusion import vae
from runners.diffusion.step_plan import StepPlan


@dataclass(frozen=True, slots=True, eq=False)
class InitLatents:
    """Normal distribution of an init image's latents, as encoded by the VAE.

    Where the VAE's configuration has latent statistics, they are normalized by them.
    Shapes: `mean` and `std` are float32 [1, 4, h/8, w/8] on the device. `scaling_factor` scales
    drawn latents to the UNet's range.
    """

    mean: torch.Tensor
    std: torch.Tensor
    scaling_factor: float

    def add_noise(self, plan: StepPlan, draw: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Draw latents and noise them to a plan's first step: float32 [1, 4, h/8, w/8].

        The draw precedes the noise in the generator's sequence, as in diffusers'
        `StableDiffusionXLControlNetImg2ImgPipeline.prepare_latents`.

        Args:
            plan: the plan of the request.
            draw: standard normal noise that selects latents, float32 [1, 4, h/8, w/8].
            noise: standard normal noise that is added to them, float32 [1, 4, h/8, w/8].
        """
        latents = self.scaling_factor * (self.mean + self.std * draw)
        return plan.start_latents * latents + plan.start_noise * noise


@torch.inference_mode()
def encode_init_image(pixels: torch.Tensor, autoencoder: Any) -> InitLatents:
    """Encode an init image once for all seeds of a request, in tiles if memory requires it.

    Args:
        pixels: uint8 RGB [h, w, 3] on the device of the VAE.
        autoencoder: the VAE, in any dtype.
    """
    image = pixels[None].permute(0, 3, 1, 2)
    # The reference scales in float32 and casts afterwards.
    scaled = (image.float() / 255.0 * 2.0 - 1.0).to(autoencoder.dtype)
    distribution = vae.encode_within_memory(autoencoder, scaled)
    mean, std = distribution.mean.float(), distribution.std.float()
    statistics = vae.latent_statistics(autoencoder.config)
    if statistics is not None:
        each = list(enumerate(statistics))
        mean = torch.cat(
            [(mean[:, n : n + 1] - center) / spread for n, (center, spread) in each], 1
        )
        std = torch.cat([std[:, n : n + 1] / spread for n, (_, spread) in each], 1)
    return InitLatents(
        mean=mean,
        std=std,
        scaling_factor=autoencoder.config.scaling_factor,
    )
