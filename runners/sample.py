"""One picture on its way from noise to latents."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from runners.conditioning import Conditioning
from runners.deepcache import DeepFeatures, is_cached_step, require_shape
from runners.device import Device
from runners.messages import PaintJob
from runners.networks import ControlNet, Variant
from runners.schedulers import build_scheduler

GroupKey = tuple[Any, ...]


class Sample:
    """The state of one picture: scheduler, generator, latents and step index are its own.

    `latents` are float32 [1, 4, h/8, w/8] on the device, scaled as the scheduler wants them.
    Noise comes from a CPU generator, so a seed means the same picture on every device.
    """

    __slots__ = (
        "conditioning",
        "controlnet",
        "deep",
        "generator",
        "index",
        "job",
        "latents",
        "scheduler",
        "step_arguments",
        "timesteps",
        "timesteps_there",
        "variant",
    )

    def __init__(
        self,
        job: PaintJob,
        seed: int,
        variant: Variant,
        controlnet: ControlNet,
        conditioning: Conditioning,
        device: Device,
    ) -> None:
        self.job = job
        self.variant = variant
        self.controlnet = controlnet
        self.conditioning = conditioning
        self.generator = torch.Generator("cpu").manual_seed(seed)
        self.scheduler = build_scheduler(
            variant.spec.scheduler, job.scheduler, job.use_karras_sigmas
        )
        # Timesteps and sigmas stay on the CPU and the index is kept, not looked up: nothing in
        # a step waits for the device.
        self.scheduler.set_timesteps(job.steps)
        first = job.first_step * self.scheduler.order
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(first)
        self.timesteps: list[torch.Tensor] = list(self.scheduler.timesteps[first:])
        self.timesteps_there = torch.stack(self.timesteps).float().to(device.torch_device)
        self.latents = self._initial_latents(device)
        self.index = 0
        self.deep: DeepFeatures | None = None
        if job.enable_deepcache:
            require_shape(variant.unet, variant.name)
        accepted = inspect.signature(self.scheduler.step).parameters
        self.step_arguments = {"generator": self.generator} if "generator" in accepted else {}

    def _initial_latents(self, device: Device) -> torch.Tensor:
        """Noise, or the picture to start from with the first timestep's noise on it."""
        start = self.conditioning.start
        if start is not None:
            return start.noised(self.scheduler, self.timesteps[0], self.generator)
        job = self.job
        channels = self.variant.unet.config.in_channels
        shape = (1, channels, job.height // 8, job.width // 8)
        noise = torch.randn(shape, generator=self.generator, dtype=torch.float32)
        noise *= float(self.scheduler.init_noise_sigma)
        return noise.to(device.torch_device)

    @property
    def group_key(self) -> GroupKey:
        """Samples with equal keys can share a batch."""
        job = self.job
        length = self.conditioning.prompt.embeds.shape[1]
        size = (job.height, job.width, length)
        # Samples that keep the ControlNet's residuals and ones that have none do not mix.
        kept = len(self.deep.residuals) if self.deep and self.reuses_features else None
        return (self.variant, self.controlnet, job.loras, *size, kept)

    @property
    def reuses_features(self) -> bool:
        """Whether the current step takes the deep features of the one before."""
        return self.job.enable_deepcache and is_cached_step(self.index, len(self.timesteps))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What of the request's LoRAs does not act."""
        known = self.variant.adapters.warnings
        return tuple(known[lora.name] for lora in self.job.loras if lora.name in known)

    @property
    def guided(self) -> bool:
        """Whether a second, unconditional row is needed."""
        return self.job.guidance_scale > 1.0

    @property
    def rows(self) -> int:
        """How many rows of a batch this sample takes."""
        return 2 if self.guided else 1

    @property
    def done(self) -> bool:
        """Whether every step is behind it. Some schedulers make more timesteps than asked."""
        return self.index >= len(self.timesteps)

    @property
    def remaining(self) -> int:
        """Steps still to do."""
        return len(self.timesteps) - self.index

    @property
    def control_scale(self) -> float:
        """How strongly the ControlNet acts at the current step; 0 outside its window."""
        steps = len(self.timesteps)
        job = self.job
        outside = (
            self.index / steps < job.control_guidance_start
            or (self.index + 1) / steps > job.control_guidance_end
        )
        return 0.0 if outside else job.controlnet_strength

    @property
    def timestep(self) -> torch.Tensor:
        """The current timestep on the device, float32, no dimensions."""
        return self.timesteps_there[self.index]

    def model_input(self) -> torch.Tensor:
        """The latents as the UNet wants them at the current step."""
        scaled: torch.Tensor = self.scheduler.scale_model_input(
            self.latents, self.timesteps[self.index]
        )
        return scaled

    def advance(self, noise_prediction: torch.Tensor) -> None:
        """Take one scheduler step with the guided noise prediction, float32 [1, 4, h/8, w/8]."""
        self.latents = self.scheduler.step(
            noise_prediction,
            self.timesteps[self.index],
            self.latents,
            **self.step_arguments,
            return_dict=False,
        )[0]
        self.index += 1
