"""Denoising state of one image."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from common.protocol import GenerateJob
from runners.device import Device
from runners.diffusion.conditioning import Conditioning
from runners.diffusion.deepcache import DeepFeatures, check_supported, is_cached_step
from runners.diffusion.schedulers import build_scheduler
from runners.networks.sdxl import ControlNet, SdxlModel

GroupKey = tuple[Any, ...]


class Sample:
    """Denoising state of one image: its own scheduler, generator, latents and step index.

    `latents` are float32 [1, 4, h/8, w/8] on the device, in the scheduler's scale. Noise comes from
    a CPU generator, so a seed gives the same noise on every device.

    Args:
        job: the request.
        seed: seed of the generator.
        variant: the model of the job.
        controlnet: the ControlNet of the job.
        conditioning: the conditioning of the job.
        device: device of the latents.

    Raises:
        SchedulerChoiceError: the scheduler or its Karras setting is not supported.
        DeepCacheError: the job enables DeepCache and the UNet does not support it.
    """

    __slots__ = (
        "conditioning",
        "controlnet",
        "deep_features",
        "generator",
        "index",
        "job",
        "latents",
        "scheduler",
        "step_arguments",
        "timesteps",
        "timesteps_on_device",
        "variant",
    )

    def __init__(
        self,
        job: GenerateJob,
        seed: int,
        variant: SdxlModel,
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
        # Timesteps and sigmas stay on the CPU and the index is stored, so that no step
        # synchronizes with the device.
        self.scheduler.set_timesteps(job.steps)
        first = job.first_step * self.scheduler.order
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(first)
        self.timesteps: list[torch.Tensor] = list(self.scheduler.timesteps[first:])
        self.timesteps_on_device = torch.stack(self.timesteps).float().to(device.torch_device)
        self.latents = self._initial_latents(device)
        self.index = 0
        self.deep_features: DeepFeatures | None = None
        if job.enable_deepcache:
            check_supported(variant.unet, variant.name)
        accepted = inspect.signature(self.scheduler.step).parameters
        self.step_arguments = {"generator": self.generator} if "generator" in accepted else {}

    def _initial_latents(self, device: Device) -> torch.Tensor:
        """Return initial noise, or the init image noised to the first timestep."""
        start = self.conditioning.start
        if start is not None:
            return start.add_noise(self.scheduler, self.timesteps[0], self.generator)
        job = self.job
        channels = self.variant.unet.config.in_channels
        shape = (1, channels, job.height // 8, job.width // 8)
        noise = torch.randn(shape, generator=self.generator, dtype=torch.float32)
        noise *= float(self.scheduler.init_noise_sigma)
        return noise.to(device.torch_device)

    @property
    def group_key(self) -> GroupKey:
        """Batching key: samples with equal keys can share a batch."""
        job = self.job
        length = self.conditioning.prompt.embeds.shape[1]
        size = (job.height, job.width, length)
        # Samples with and without stored ControlNet residuals must not share a batch.
        residual_count = (
            len(self.deep_features.residuals)
            if self.deep_features and self.reuses_features
            else None
        )
        return (self.variant, self.controlnet, job.loras, *size, residual_count)

    @property
    def reuses_features(self) -> bool:
        """Whether the current step reuses the deep features of the previous step."""
        return self.job.enable_deepcache and is_cached_step(self.index, len(self.timesteps))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about parts of the request's LoRAs that are not applied."""
        known = self.variant.loras.warnings
        return tuple(known[lora.name] for lora in self.job.loras if lora.name in known)

    @property
    def uses_cfg(self) -> bool:
        """Whether classifier-free guidance requires a second, unconditional row."""
        return self.job.guidance_scale > 1.0

    @property
    def batch_rows(self) -> int:
        """Number of batch rows of this sample."""
        return 2 if self.uses_cfg else 1

    @property
    def done(self) -> bool:
        """Whether every step is done. Some schedulers use more timesteps than requested steps."""
        return self.index >= len(self.timesteps)

    @property
    def remaining(self) -> int:
        """Number of remaining steps."""
        return len(self.timesteps) - self.index

    @property
    def control_scale(self) -> float:
        """ControlNet strength at the current step; 0 outside its guidance window."""
        steps = len(self.timesteps)
        job = self.job
        outside = (
            self.index / steps < job.control_guidance_start
            or (self.index + 1) / steps > job.control_guidance_end
        )
        return 0.0 if outside else job.controlnet_strength

    @property
    def timestep(self) -> torch.Tensor:
        """The current timestep, a zero-dimensional float32 tensor on the device."""
        return self.timesteps_on_device[self.index]

    def model_input(self) -> torch.Tensor:
        """Return the latents scaled for the UNet at the current step, float32 [1, 4, h/8, w/8]."""
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
