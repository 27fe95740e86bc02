"""Init images of image-to-image: encoding to latents and noising (SDEdit, arXiv:2108.01073)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from common.protocol import GenerateJob
from runners.device import Device
from runners.diffusion import vae


@dataclass(frozen=True, slots=True, eq=False)
class InitLatents:
    """Normal distribution of an init image's latents, as encoded by the VAE.

    Shapes: `mean` and `std` are float32 [1, 4, h/8, w/8] on the device. `scaling_factor` scales
    drawn latents to the UNet's range.
    """

    mean: torch.Tensor
    std: torch.Tensor
    scaling_factor: float

    def add_noise(
        self, scheduler: Any, timestep: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Draw latents and noise them to a timestep: float32 [1, 4, h/8, w/8] on the device.

        Args:
            scheduler: a scheduler whose current step is `timestep`.
            timestep: a timestep of the schedule, a zero-dimensional tensor.
            generator: a CPU generator. It produces the draw first and the noise second, in the
                order of diffusers' `StableDiffusionXLControlNetImg2ImgPipeline.prepare_latents`.
        """
        draw, noise = (self._draw(generator) for _ in range(2))
        latents = self.scaling_factor * (self.mean + self.std * draw)
        keep, add = _noise_coefficients(scheduler, timestep)
        return keep * latents + add * noise

    def _draw(self, generator: torch.Generator) -> torch.Tensor:
        numbers = torch.randn(self.mean.shape, generator=generator, dtype=torch.float32)
        return numbers.to(self.mean.device)


@torch.inference_mode()
def encode_init_image(job: GenerateJob, autoencoder: Any, device: Device) -> InitLatents:
    """Encode a job's init image once for all of its seeds, in tiles if memory requires it.

    Args:
        job: the request; `image` is uint8 RGB bytes of its size.
        autoencoder: the VAE, in any dtype.
        device: the device of the VAE.
    """
    pixels = torch.from_numpy(np.frombuffer(job.image, np.uint8).copy())
    image = pixels.to(device.torch_device).view(1, job.height, job.width, 3).permute(0, 3, 1, 2)
    # The reference scales in float32 and casts afterwards.
    scaled = (image.float() / 255.0 * 2.0 - 1.0).to(autoencoder.dtype)
    distribution = vae.encode_within_memory(autoencoder, scaled)
    return InitLatents(
        mean=distribution.mean.float(),
        std=distribution.std.float(),
        scaling_factor=autoencoder.config.scaling_factor,
    )


def _noise_coefficients(scheduler: Any, timestep: torch.Tensor) -> tuple[float, float]:
    """Return the factors of latents and noise at a timestep.

    The scheduler receives scalars on the CPU. Given device tensors, some schedulers move their
    tables to the device, and every later step would synchronize with it.
    """
    one, zero = torch.ones(1, 1), torch.zeros(1, 1)
    when = timestep.reshape(1)
    return (
        float(scheduler.add_noise(one, zero, when)),
        float(scheduler.add_noise(zero, one, when)),
    )
