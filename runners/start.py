"""The picture that image-to-image starts from, as latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from runners import tiling
from runners.device import Device
from runners.messages import PaintJob


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """What the autoencoder makes of a picture: a normal distribution of latents.

    Shapes: `mean` and `std` float32 [1, 4, h/8, w/8] on the device; `scaling_factor` brings draws
    to the range in which the UNet works.
    """

    mean: torch.Tensor
    std: torch.Tensor
    scaling_factor: float

    def noised(
        self, scheduler: Any, timestep: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Latents drawn and brought to the noise of a timestep, float32 [1, 4, h/8, w/8].

        Args:
            scheduler: stands at `timestep`.
            timestep: of the schedule, no dimensions.
            generator: gives the draw first and the noise after it, as diffusers'
                `StableDiffusionXLControlNetImg2ImgPipeline.prepare_latents` takes them.
        """
        draw, noise = (self._random(generator) for _ in range(2))
        latents = self.scaling_factor * (self.mean + self.std * draw)
        keep, add = _coefficients(scheduler, timestep)
        return keep * latents + add * noise

    def _random(self, generator: torch.Generator) -> torch.Tensor:
        numbers = torch.randn(self.mean.shape, generator=generator, dtype=torch.float32)
        return numbers.to(self.mean.device)


@torch.inference_mode()
def encode_start(job: PaintJob, autoencoder: Any, device: Device) -> Start:
    """Encode a job's picture, once for all of its seeds; a large one in tiles, where it must."""
    pixels = torch.from_numpy(np.frombuffer(job.image, np.uint8).copy())
    picture = pixels.to(device.torch_device).view(1, job.height, job.width, 3).permute(0, 3, 1, 2)
    # Scaled in float32, as the reference does, and cast after.
    scaled = (picture.float() / 255.0 * 2.0 - 1.0).to(autoencoder.dtype)
    distribution = tiling.encode(autoencoder, scaled)
    return Start(
        mean=distribution.mean.float(),
        std=distribution.std.float(),
        scaling_factor=autoencoder.config.scaling_factor,
    )


def _coefficients(scheduler: Any, timestep: torch.Tensor) -> tuple[float, float]:
    """How much of the latents and of the noise a timestep has.

    Asked of the scheduler with single numbers: given tensors of the device, some schedulers move
    their tables there, and every later step would wait for them.
    """
    one, zero = torch.ones(1, 1), torch.zeros(1, 1)
    when = timestep.reshape(1)
    return (
        float(scheduler.add_noise(one, zero, when)),
        float(scheduler.add_noise(zero, one, when)),
    )
