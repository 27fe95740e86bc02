"""Denoising state of one image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from common.protocol import GenerateJob
from common.step_window import is_in_window
from runners.diffusion.conditioning import Conditioning
from runners.diffusion.deepcache import DeepFeatures, check_supported, is_cached_step
from runners.diffusion.step_plan import Operand
from runners.networks.sdxl import ControlNet, SdxlModel

GroupKey = tuple[Any, ...]


class Sample:
    """Denoising state of one image: its latents and step index.

    `latents` are float32 [1, 4, h/8, w/8] on the device, in the scheduler's scale. Noise comes from
    a CPU generator, so a seed gives the same noise on every device.

    Args:
        job: the request.
        number: number of the image within the request.
        variant: the model of the job.
        controlnet: the ControlNet of the job.
        conditioning: the conditioning of the job.

    Raises:
        DeepCacheError: the job enables DeepCache and the UNet does not support it.
    """

    __slots__ = (
        "_initial",
        "_noise",
        "_operands",
        "conditioning",
        "controlnet",
        "deep_features",
        "exact_sums",
        "index",
        "job",
        "latents",
        "plan",
        "variant",
    )

    def __init__(
        self,
        job: GenerateJob,
        number: int,
        variant: SdxlModel,
        controlnet: ControlNet,
        conditioning: Conditioning,
    ) -> None:
        if job.enable_deepcache:
            check_supported(variant.unet, variant.name)
        self.job = job
        self.variant = variant
        self.controlnet = controlnet
        self.conditioning = conditioning
        self.plan = conditioning.plan
        self.index = 0
        self.exact_sums = False
        """Whether the steps need sums in float32 even where float16 is faster."""
        self.deep_features: DeepFeatures | None = None
        start = conditioning.start
        noise = conditioning.noise[number].unsqueeze(1)
        if start is None:
            self.latents, self._noise = noise[0], noise[1:]
        else:
            self.latents = start.add_noise(self.plan, noise[0], noise[1])
            self._noise = noise[2:]
        self._initial = self.latents
        self._operands: dict[Operand, torch.Tensor] = {}

    def restart(self) -> None:
        """Go back to the first step, from where sums are in float32."""
        self.index = 0
        self.latents = self._initial
        self.deep_features = None
        self.exact_sums = True
        self._operands = {}

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
        return (self.variant, self.controlnet, job.loras, *size, residual_count, self.exact_sums)

    @property
    def reuses_features(self) -> bool:
        """Whether the current step reuses the deep features of the previous step."""
        steps = len(self.plan.steps)
        if not self.job.enable_deepcache or not is_cached_step(self.index, steps):
            return False
        # Where guidance begins, the unconditional row has no features yet.
        deep = self.deep_features
        return deep is not None and len(deep.features) >= self.batch_rows

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about parts of the request's LoRAs that are not applied."""
        known = self.variant.loras.warnings
        return tuple(known[lora.name] for lora in self.job.loras if lora.name in known)

    @property
    def uses_cfg(self) -> bool:
        """Whether the current step's guidance requires a second, unconditional row."""
        if self.variant.guidance_channels is not None:
            return False
        return self.job.is_guided(self.index, len(self.plan.steps))

    @property
    def batch_rows(self) -> int:
        """Number of batch rows of the current step."""
        return 2 if self.uses_cfg else 1

    @property
    def remaining_rows(self) -> int:
        """Rows of all remaining steps."""
        steps = len(self.plan.steps)
        if self.variant.guidance_channels is not None:
            return steps - self.index
        return self.job.count_rows(self.index, steps)

    @property
    def done(self) -> bool:
        """Whether every step is done. Some schedulers use more timesteps than requested steps."""
        return self.index >= len(self.plan.steps)

    @property
    def control_scale(self) -> float:
        """ControlNet strength at the current step; 0 outside its guidance window."""
        job = self.job
        window = job.control_guidance_start, job.control_guidance_end
        acts = is_in_window(self.index, len(self.plan.steps), *window)
        return job.controlnet_strength if acts else 0.0

    @property
    def timestep(self) -> torch.Tensor:
        """The current timestep, a zero-dimensional float32 tensor on the device."""
        return self.conditioning.timesteps[self.index]

    def model_input(self) -> torch.Tensor:
        """Return the latents scaled for the UNet at the current step, float32 [1, 4, h/8, w/8]."""
        scale = self.plan.steps[self.index].scale
        return self.latents if scale == 1.0 else self.latents * scale

    def advance(self, noise_prediction: torch.Tensor) -> None:
        """Take one scheduler step with the guided noise prediction, float32 [1, 4, h/8, w/8]."""
        step = self.plan.steps[self.index]
        operands = self._operands
        operands["latents", self.index] = self.latents
        operands["prediction", self.index] = noise_prediction
        if step.corrected:
            operands["corrected", self.index] = self._combine(step.corrected)
        self.latents = self._combine(step.combination)
        self._operands = {key: operands[key] for key in step.keeps}
        self.index += 1

    def _combine(self, coefficients: Mapping[Operand, float]) -> torch.Tensor:
        """Return a linear combination of latents, predictions and noise.

        The step's latents and prediction are combined before they are scaled, as schedulers do when
        they estimate the image. Scaled apart, their rounding would be that of larger numbers.
        """
        terms = dict(coefficients)
        latents = terms.pop(("latents", self.index), 0.0)
        prediction = terms.pop(("prediction", self.index), 0.0)
        result: torch.Tensor | None = None
        if latents != 0.0:
            ratio = prediction / latents
            result = torch.add(
                self._operands["latents", self.index],
                self._operands["prediction", self.index],
                alpha=ratio,
            )
            if latents != 1.0:
                result.mul_(latents)
        elif prediction != 0.0:
            result = self._operands["prediction", self.index] * prediction
        for operand, coefficient in terms.items():
            kind, number = operand
            tensor = self._noise[number] if kind == "noise" else self._operands[operand]
            if result is None:
                result = tensor * coefficient
            else:
                result.add_(tensor, alpha=coefficient)
        assert result is not None
        return result
