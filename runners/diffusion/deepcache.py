"""DeepCache: denoising steps that reuse the UNet's deep features (arXiv:2312.00858).

Deep features change little from one step to the next. A cached step evaluates only the shallowest
blocks, and the last up block takes the deep features of the previous step. Every second step is
cached; the first and the last are always full. A cached step skips the ControlNet and reuses its
residuals for the shallow features.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.unets.unet_2d_blocks import DownBlock2D, UpBlock2D

from runners.errors import DeepCacheError

_INTERVAL = 2


@dataclass(frozen=True, slots=True, eq=False)
class DeepFeatures:
    """Features of a sample's last full step, with r rows: one, or two under guidance.

    Shapes: `features` [r, C, h, w] is the input of the last up block. `residuals`, each
    [r, c, h, w], are the ControlNet's residuals for the shallow features; empty without ControlNet.
    """

    features: torch.Tensor
    residuals: tuple[torch.Tensor, ...]


def is_cached_step(index: int, steps: int) -> bool:
    """Return whether a step, counted from 0, reuses the features of the previous step."""
    return index % _INTERVAL != 0 and index < steps - 1


def check_supported(unet: Any, model: str) -> None:
    """Check that the UNet's first and last blocks have the structure of SDXL's.

    Raises:
        DeepCacheError: they have a different structure.
    """
    first, last = unet.down_blocks[0], unet.up_blocks[-1]
    fits = (
        type(first) is DownBlock2D
        and type(last) is UpBlock2D
        and len(last.resnets) == len(first.resnets) + 1
    )
    if not fits:
        raise DeepCacheError(f"enable_deepcache: not offered by model {model}")


@contextlib.contextmanager
def capture_deep_features(unet: Any) -> Iterator[list[torch.Tensor]]:
    """Yield a list that collects the input of the last up block, [R, C, h, w], during the block."""
    captured: list[torch.Tensor] = []

    def capture(_: Any, positional: Any, named: dict[str, Any]) -> None:
        captured.append(named["hidden_states"] if "hidden_states" in named else positional[0])

    handle = unet.up_blocks[-1].register_forward_pre_hook(capture, with_kwargs=True)
    try:
        yield captured
    finally:
        handle.remove()


def shallow_forward(unet: Any, latents: torch.Tensor, timesteps: torch.Tensor, embeds: torch.Tensor,
            conditions: dict[str, torch.Tensor], deep: DeepFeatures,
            guidance: torch.Tensor | None = None) -> torch.Tensor:  # fmt: skip
    """Run a cached step of the UNet and return its prediction, [R, 4, h, w].

    Args:
        unet: an SDXL UNet.
        latents: scaled latents, [R, 4, h, w].
        timesteps: [R].
        embeds: text embeddings, [R, L, D].
        conditions: the UNet's `added_cond_kwargs`.
        deep: features of the previous step for all R rows.
        guidance: embeddings of the guidance scales, [R, C]; None for UNets that take none.
    """
    times = unet.get_time_embed(sample=latents, timestep=timesteps)
    embedded = unet.time_embedding(times, guidance)
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


def select_residuals(unet: Any, down: Sequence[torch.Tensor] | None) -> tuple[torch.Tensor, ...]:
    """Return the ControlNet residuals that a cached step uses."""
    if down is None:
        return ()
    return tuple(down[: 1 + len(unet.down_blocks[0].resnets)])
