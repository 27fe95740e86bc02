"""One step of one batch: ControlNet, UNet and guidance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from runners.device import Device
from runners.sample import Sample


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """A batch as the networks see it: the guided samples' unconditional rows, then one
    conditional row per sample. R = rows."""

    latents: torch.Tensor  # [R, 4, h, w]
    timesteps: torch.Tensor  # [R]
    embeds: torch.Tensor  # [R, L, D]
    pooled: torch.Tensor  # [R, P]
    time_ids: torch.Tensor  # [R, 6]


@torch.inference_mode()
def predict_noise(samples: Sequence[Sample], device: Device) -> list[torch.Tensor]:
    """Evaluate ControlNet and UNet once for samples of one group, and apply guidance.

    Guidance is classifier-free (Ho and Salimans, 2022): uncond + scale * (cond - uncond), for the
    samples that ask for it; the others take one row. The ControlNet sees only the rows of samples
    on which it still acts.

    Args:
        samples: of equal group key, none of them done.

    Returns:
        One float32 prediction per sample, [1, 4, h/8, w/8].
    """
    guided = [sample for sample in samples if sample.guided]
    owners = [*guided, *samples]
    rows = _gather(guided, samples, device)
    down, middle = _control(owners, rows, device)
    variant = samples[0].variant
    with variant.adapters.active(samples[0].job.loras):
        output = variant.unet(
            rows.latents,
            rows.timesteps,
            encoder_hidden_states=rows.embeds,
            added_cond_kwargs={"text_embeds": rows.pooled, "time_ids": rows.time_ids},
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0]
    prediction = output.float()
    unconditional = dict(zip(map(id, guided), prediction[: len(guided)], strict=True))
    result = []
    for sample, conditional in zip(samples, prediction[len(guided) :], strict=True):
        if sample.guided:
            base = unconditional[id(sample)]
            conditional = base + sample.job.guidance_scale * (conditional - base)
        result.append(conditional[None])
    return result


def _gather(guided: Sequence[Sample], samples: Sequence[Sample], device: Device) -> _Rows:
    inputs = {id(sample): sample.model_input().to(device.dtype) for sample in samples}
    owners = [*guided, *samples]
    embeds, pooled = [], []
    for sample in guided:
        prompt = sample.conditioning.prompt
        assert prompt.negative_embeds is not None
        assert prompt.negative_pooled is not None
        embeds.append(prompt.negative_embeds)
        pooled.append(prompt.negative_pooled)
    for sample in samples:
        embeds.append(sample.conditioning.prompt.embeds)
        pooled.append(sample.conditioning.prompt.pooled)
    timesteps = torch.stack([sample.timesteps[sample.index] for sample in owners])
    return _Rows(
        latents=torch.cat([inputs[id(sample)] for sample in owners]),
        timesteps=timesteps.float().to(device.torch_device, non_blocking=True),
        embeds=torch.cat(embeds),
        pooled=torch.cat(pooled),
        time_ids=torch.cat([sample.conditioning.time_ids for sample in owners]),
    )


def _control(
    owners: Sequence[Sample], rows: _Rows, device: Device
) -> tuple[list[torch.Tensor] | None, torch.Tensor | None]:
    """The ControlNet's residuals for every row, or None where it acts on none."""
    scales = [sample.control_scale for sample in owners]
    acting = [row for row, scale in enumerate(scales) if scale != 0.0]
    if not acting:
        return None, None
    everywhere = len(acting) == len(owners)
    index = torch.tensor(acting, device=device.torch_device)

    def pick(tensor: torch.Tensor) -> torch.Tensor:
        return tensor if everywhere else tensor.index_select(0, index)

    scale = torch.tensor([scales[row] for row in acting], dtype=device.dtype)
    down, middle = owners[0].controlnet.network(
        pick(rows.latents),
        pick(rows.timesteps),
        encoder_hidden_states=pick(rows.embeds),
        controlnet_cond=torch.cat([owners[row].conditioning.hint for row in acting]),
        conditioning_scale=scale.to(device.torch_device).view(-1, 1, 1, 1),
        added_cond_kwargs={"text_embeds": pick(rows.pooled), "time_ids": pick(rows.time_ids)},
        return_dict=False,
    )
    if everywhere:
        return list(down), middle

    def spread(tensor: torch.Tensor) -> torch.Tensor:
        whole = tensor.new_zeros((len(owners), *tensor.shape[1:]))
        return whole.index_copy_(0, index, tensor)

    return [spread(tensor) for tensor in down], spread(middle)
