"""One step of one batch: ControlNet, UNet and guidance."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch

from runners.added_conditions import added
from runners.batch import Batch, BatchCache
from runners.deepcache import DeepFeatures, captured, shallow, shallow_residuals
from runners.device import Device
from runners.networks import ControlNet
from runners.sample import Sample


@torch.inference_mode()
def predict_noise(
    samples: Sequence[Sample], device: Device, batches: BatchCache | None = None
) -> list[torch.Tensor]:
    """Evaluate ControlNet and UNet once for samples of one group, and apply guidance.

    Guidance is classifier-free (Ho and Salimans, 2022): uncond + scale * (cond - uncond), for the
    samples that ask for it; the others take one row. The ControlNet sees only the rows of samples
    on which it still acts.

    Args:
        samples: of equal group key, none of them done.
        device: where and in which precision.
        batches: where what stays from step to step is kept; without it nothing is.

    Returns:
        One float32 prediction per sample, [1, 4, h/8, w/8].
    """
    guided = [sample for sample in samples if sample.guided]
    with samples[0].variant.adapters.active(samples[0].job.loras):
        batch = (batches or BatchCache(device)).batch(samples)
        _write_latents(batch)
        timesteps = torch.stack([owner.timestep for owner in batch.owners])
        if samples[0].reuses_features:
            output = _cached_step(batch, timesteps)
        else:
            output = _whole_step(batch, timesteps, device)
    prediction = output.float()
    unconditional = dict(zip(map(id, guided), prediction[: len(guided)], strict=True))
    result = []
    for sample, conditional in zip(samples, prediction[len(guided) :], strict=True):
        if sample.guided:
            base = unconditional[id(sample)]
            conditional = base + sample.job.guidance_scale * (conditional - base)
        result.append(conditional[None])
    return result


def _whole_step(batch: Batch, timesteps: torch.Tensor, device: Device) -> torch.Tensor:
    """ControlNet and UNet; samples that will reuse the deep features keep them."""
    variant = batch.owners[0].variant
    down, middle = _control(batch, timesteps, device)
    keepers = [owner for owner in dict.fromkeys(batch.owners) if owner.job.enable_deepcache]
    with contextlib.ExitStack() as stack:
        stack.enter_context(variant.text.bound(batch.text.unet))
        stack.enter_context(added(variant.unet, batch.added))
        seen = stack.enter_context(captured(variant.unet)) if keepers else []
        output: torch.Tensor = variant.unet(
            batch.latents,
            timesteps,
            encoder_hidden_states=batch.text.embeds,
            added_cond_kwargs={"text_embeds": batch.text.pooled, "time_ids": batch.time_ids},
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0]
    residuals = shallow_residuals(variant.unet, down)
    for keeper in keepers:
        rows = [row for row, owner in enumerate(batch.owners) if owner is keeper]
        keeper.deep = DeepFeatures(seen[0][rows], tuple(each[rows] for each in residuals))
    return output


def _cached_step(batch: Batch, timesteps: torch.Tensor) -> torch.Tensor:
    """The UNet's shallow blocks, on every owner's features of the step before."""
    parts = []
    taken: dict[int, int] = {}
    for owner in batch.owners:
        assert owner.deep is not None
        row = taken[id(owner)] = taken.get(id(owner), -1) + 1
        one = slice(row, row + 1)
        parts.append((owner.deep.features[one], [each[one] for each in owner.deep.residuals]))
    deep = DeepFeatures(
        torch.cat([features for features, _ in parts]),
        tuple(map(torch.cat, zip(*(residuals for _, residuals in parts), strict=True))),
    )
    conditions = {"text_embeds": batch.text.pooled, "time_ids": batch.time_ids}
    unet = batch.owners[0].variant.unet
    with added(unet, batch.added):
        return shallow(unet, batch.latents, timesteps, batch.text.embeds, conditions, deep)


def _write_latents(batch: Batch) -> None:
    """Every sample's scaled latents into its rows, cast on the way."""
    inputs = {sample: sample.model_input() for sample in dict.fromkeys(batch.owners)}
    for row, owner in enumerate(batch.owners):
        batch.latents[row : row + 1].copy_(inputs[owner])


def _control(
    batch: Batch, timesteps: torch.Tensor, device: Device
) -> tuple[list[torch.Tensor] | None, torch.Tensor | None]:
    """The ControlNet's residuals for every row, or None where it acts on none."""
    acting = [row for row, owner in enumerate(batch.owners) if owner.control_scale != 0.0]
    if not acting:
        return None, None
    network = batch.owners[0].controlnet
    if len(acting) == len(batch.owners):
        return _residuals(network, batch, timesteps, slice(None))
    index = torch.tensor(acting, device=device.torch_device)
    down, middle = _residuals(network, batch, timesteps, index)

    def spread(tensor: torch.Tensor) -> torch.Tensor:
        whole = tensor.new_zeros((len(batch.owners), *tensor.shape[1:]))
        return whole.index_copy_(0, index, tensor)

    return [spread(tensor) for tensor in down], spread(middle)


def _residuals(
    network: ControlNet, batch: Batch, timesteps: torch.Tensor, rows: torch.Tensor | slice
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """What the ControlNet adds to the UNet's features on some of the rows."""
    text = [(key[rows], value[rows]) for key, value in batch.text.controlnet]
    assert batch.control_added is not None
    with network.text.bound(text), added(network.network, batch.control_added[rows]):
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
