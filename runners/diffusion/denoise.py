"""One denoising step of one batch: ControlNet, UNet and guidance."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch

from runners.device import Device
from runners.diffusion.batch import Batch, BatchCache
from runners.diffusion.deepcache import (
    DeepFeatures,
    capture_deep_features,
    select_residuals,
    shallow_forward,
)
from runners.diffusion.fp16_accumulation import exact_sums
from runners.diffusion.sample import Sample
from runners.networks.sdxl import ControlNet
from runners.networks.static_conditioning import bind_added_cond


@torch.inference_mode()
def predict_noise(
    samples: Sequence[Sample], device: Device, batches: BatchCache | None = None
) -> list[torch.Tensor]:
    """Evaluate ControlNet and UNet once for samples of one group, and apply guidance.

    Guidance is classifier-free (arXiv:2207.12598): uncond + scale * (cond - uncond). Samples
    without guidance take one row. The ControlNet (arXiv:2302.05543) evaluates only rows with a
    non-zero control scale.

    Args:
        samples: unfinished samples with equal group keys.
        device: device and dtype of the networks.
        batches: cache of batch tensors between steps; without it nothing is cached.

    Returns:
        One float32 prediction per sample, [1, 4, h/8, w/8], on the device.
    """
    guided = [sample for sample in samples if sample.uses_cfg]
    first = samples[0]
    with first.variant.loras.activate(first.job.loras), exact_sums(first.exact_sums):
        batch = (batches or BatchCache(device)).batch(samples)
        _write_latents(batch)
        timesteps = torch.stack([owner.timestep for owner in batch.row_samples])
        if first.reuses_features:
            output = _deepcache_step(batch, timesteps)
        else:
            output = _full_step(batch, timesteps)
    prediction = output.float()
    unconditional = dict(zip(map(id, guided), prediction[: len(guided)], strict=True))
    result = []
    for sample, conditional in zip(samples, prediction[len(guided) :], strict=True):
        if sample.uses_cfg:
            base = unconditional[id(sample)]
            conditional = base + sample.job.guidance_scale * (conditional - base)
        result.append(conditional[None])
    return result


def _full_step(batch: Batch, timesteps: torch.Tensor) -> torch.Tensor:
    """Run ControlNet and UNet, and store deep features on samples with DeepCache enabled."""
    variant = batch.row_samples[0].variant
    down, middle = _controlnet_residuals(batch, timesteps)
    cached_owners = [
        owner for owner in dict.fromkeys(batch.row_samples) if owner.job.enable_deepcache
    ]
    with contextlib.ExitStack() as stack:
        stack.enter_context(variant.cross_attention.bind(batch.text.unet))
        stack.enter_context(bind_added_cond(variant.unet, batch.added))
        captured = stack.enter_context(capture_deep_features(variant.unet)) if cached_owners else []
        output: torch.Tensor = variant.unet(
            batch.latents,
            timesteps,
            encoder_hidden_states=batch.text.embeds,
            timestep_cond=batch.guidance,
            added_cond_kwargs={"text_embeds": batch.text.pooled, "time_ids": batch.time_ids},
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0]
    residuals = select_residuals(variant.unet, down)
    for cached_owner in cached_owners:
        index = torch.cat(
            [
                batch.rows[row : row + 1]
                for row, owner in enumerate(batch.row_samples)
                if owner is cached_owner
            ]
        )
        cached_owner.deep_features = DeepFeatures(
            captured[0][index], tuple(each[index] for each in residuals)
        )
    return output


def _deepcache_step(batch: Batch, timesteps: torch.Tensor) -> torch.Tensor:
    """Run the UNet's shallow blocks on the deep features of the previous step."""
    parts = []
    next_rows: dict[int, int] = {}
    for owner in batch.row_samples:
        assert owner.deep_features is not None
        # Where guidance has ended, the last row is the conditional one.
        unused = len(owner.deep_features.features) - owner.batch_rows
        row = next_rows[id(owner)] = next_rows.get(id(owner), unused - 1) + 1
        one = slice(row, row + 1)
        parts.append(
            (
                owner.deep_features.features[one],
                [each[one] for each in owner.deep_features.residuals],
            )
        )
    deep = DeepFeatures(
        torch.cat([features for features, _ in parts]),
        tuple(map(torch.cat, zip(*(residuals for _, residuals in parts), strict=True))),
    )
    conditions = {"text_embeds": batch.text.pooled, "time_ids": batch.time_ids}
    unet = batch.row_samples[0].variant.unet
    with bind_added_cond(unet, batch.added):
        return shallow_forward(
            unet, batch.latents, timesteps, batch.text.embeds, conditions, deep, batch.guidance
        )


def _write_latents(batch: Batch) -> None:
    """Copy every sample's scaled latents into its rows, cast to the networks' dtype."""
    inputs = {sample: sample.model_input() for sample in dict.fromkeys(batch.row_samples)}
    for row, owner in enumerate(batch.row_samples):
        batch.latents[row : row + 1].copy_(inputs[owner])


def _controlnet_residuals(
    batch: Batch, timesteps: torch.Tensor
) -> tuple[list[torch.Tensor] | None, torch.Tensor | None]:
    """Return the ControlNet residuals for every row, or None if all control scales are 0.

    Rows with a control scale of 0 get zero residuals.
    """
    acting = [row for row, owner in enumerate(batch.row_samples) if owner.control_scale != 0.0]
    if not acting:
        return None, None
    network = batch.row_samples[0].controlnet
    if len(acting) == len(batch.row_samples):
        return _evaluate_controlnet(network, batch, timesteps, slice(None))
    # Made of numbers that are on the device, because a copy from the host would wait for it.
    index = torch.cat([batch.rows[row : row + 1] for row in acting])
    down, middle = _evaluate_controlnet(network, batch, timesteps, index)

    def scatter(tensor: torch.Tensor) -> torch.Tensor:
        whole = tensor.new_zeros((len(batch.row_samples), *tensor.shape[1:]))
        return whole.index_copy_(0, index, tensor)

    return [scatter(tensor) for tensor in down], scatter(middle)


def _evaluate_controlnet(
    network: ControlNet, batch: Batch, timesteps: torch.Tensor, rows: torch.Tensor | slice
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Evaluate the ControlNet on some rows and return its residuals for the UNet."""
    text = [(key[rows], value[rows]) for key, value in batch.text.controlnet]
    assert batch.control_added is not None
    with (
        network.cross_attention.bind(text),
        bind_added_cond(network.network, batch.control_added[rows]),
    ):
        down, middle = network.network(
            batch.latents[rows],
            timesteps[rows],
            encoder_hidden_states=batch.text.embeds[rows],
            controlnet_cond=batch.hints[rows],
            conditioning_scale=batch.strengths[rows],
            added_cond_kwargs={
                "text_embeds": batch.text.pooled[rows],
                "time_ids": batch.time_ids[rows],
            },
            return_dict=False,
        )
    return list(down), middle
