"""What a request's sizes and pooled text add to the time embedding, computed once per batch.

SDXL's networks embed both beside the timestep (Podell et al., 2023, arXiv 2307.01952, section 2.2),
and diffusers does it anew at every step, though only the timestep changes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


def added_embedding(network: Any, pooled: torch.Tensor, time_ids: torch.Tensor) -> torch.Tensor:
    """The embedding of pooled text [R, P] and sizes [R, 6] by a UNet or ControlNet: [R, C]."""
    sizes = network.add_time_proj(time_ids.flatten()).reshape(len(pooled), -1)
    conditions = torch.cat([pooled, sizes], dim=-1).to(pooled.dtype)
    embedding: torch.Tensor = network.add_embedding(conditions)
    return embedding


@contextlib.contextmanager
def added(network: Any, embedding: torch.Tensor) -> Iterator[None]:
    """Let a network use what `added_embedding` gave, until the block ends."""
    # On the instances, and only meanwhile: a reference that stays would be a cycle, and what is
    # unloaded would keep its memory until it is collected.
    network.add_time_proj.forward = lambda sizes: sizes
    network.add_embedding.forward = lambda _: embedding
    try:
        yield
    finally:
        del network.add_time_proj.forward, network.add_embedding.forward
