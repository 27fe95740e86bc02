"""DeepCache: steps that reuse the UNet's deep features (Ma et al., 2023, arXiv 2312.00858).

From one step to the next, what the deep blocks see changes little. On a cached step only the
shallowest blocks are evaluated, and the last up block takes the deep features of the step before.
Every other step is cached; the first and the last are always whole. The ControlNet is not evaluated
on cached steps: what it adds to the shallow features is kept from the step before too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.unets.unet_2d_blocks import DownBlock2D, UpBlock2D

_INTERVAL = 2


class DeepCacheError(ValueError):
    """A UNet whose shape does not allow it; the message is for the caller."""


@dataclass(frozen=True, slots=True, eq=False)
class DeepFeatures:
    """What a sample keeps of its last whole step, one row for each of its own.

    Shapes: `features` [r, C, h, w], the last up block's input; `residuals`, what the ControlNet
    adds to the shallow features, each [r, c, h, w], none where it does not act.
    """

    features: torch.Tensor
    residuals: tuple[torch.Tensor, ...]


def is_cached_step(index: int, steps: int) -> bool:
    """Whether a step, counted from 0, reuses the features of the one before."""
    return index % _INTERVAL != 0 and index < steps - 1


def require_shape(unet: Any, model: str) -> None:
    """Raise DeepCacheError unless the UNet's first and last blocks are as SDXL's."""
    first, last = unet.down_blocks[0], unet.up_blocks[-1]
    fits = (
        type(first) is DownBlock2D
        and type(last) is UpBlock2D
        and len(last.resnets) == len(first.resnets) + 1
    )
    if not fits:
        raise DeepCacheError(f"enable_deepcache: not offered by model {model}")


@contextlib.contextmanager
def captured(unet: Any) -> Iterator[list[torch.Tensor]]:
    """While it is entered, the input of the last up block ends up in the list: [R, C, h, w]."""
    seen: list[torch.Tensor] = []

    def keep(_: Any, positional: Any, named: dict[str, Any]) -> None:
        seen.append(named["hidden_states"] if "hidden_states" in named else positional[0])

    handle = unet.up_blocks[-1].register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def shallow(unet: Any, latents: torch.Tensor, timesteps: torch.Tensor, embeds: torch.Tensor,
            conditions: dict[str, torch.Tensor], deep: DeepFeatures) -> torch.Tensor:  # fmt: skip
    """A cached step of the UNet: [R, 4, h, w] to a prediction of that shape.

    The arguments are the UNet's own; `deep` has all R rows.
    """
    embedded = unet.time_embedding(unet.get_time_embed(sample=latents, timestep=timesteps))
    added = unet.get_aug_embed(
        emb=embedded, encoder_hidden_states=embeds, added_cond_kwargs=conditions
    )
    embedded = embedded + added
    hidden = unet.conv_in(latents)
    skips = [hidden]
    for resnet in unet.down_blocks[0].resnets:
        hidden = resnet(hidden, embedded)
        skips.append(hidden)
    if deep.residuals:
        skips = [skip + more for skip, more in zip(skips, deep.residuals, strict=True)]
    hidden = unet.up_blocks[-1](
        hidden_states=deep.features, temb=embedded, res_hidden_states_tuple=tuple(skips)
    )
    output: torch.Tensor = unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden)))
    return output


def shallow_residuals(unet: Any, down: Sequence[torch.Tensor] | None) -> tuple[torch.Tensor, ...]:
    """Of the ControlNet's residuals those that a cached step uses."""
    if down is None:
        return ()
    return tuple(down[: 1 + len(unet.down_blocks[0].resnets)])
