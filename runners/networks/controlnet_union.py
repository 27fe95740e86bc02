"""Union ControlNets (xinsir's ControlNet++, github.com/xinsir6/ControlNetPlus) in depth mode.

One union network serves several types of control maps. For a single map, it differs from a plain
ControlNet (arXiv:2302.05543) in two terms that are constant between steps: an embedding of the
control type, added to the time embedding, and an offset per channel of the hint embedding. Both are
computed outside the network, so that the engine evaluates a plain ControlNet.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from diffusers import ControlNetModel, ControlNetUnionModel
from torch import nn

from models.conversion.controlnet_config import DEPTH_MODE


class UnionHintEmbedding(nn.Module):
    """Hint embedding of a union ControlNet, with the offset of its condition transformer."""

    def __init__(self, union: ControlNetUnionModel) -> None:
        super().__init__()
        self.embedding = union.controlnet_cond_embedding
        self.task_embedding = union.task_embedding
        self.layers = union.transformer_layes
        self.projection = union.spatial_ch_projs

    def forward(self, depth: torch.Tensor) -> torch.Tensor:
        """Embed depth maps.

        diffusers' transformer attends along the first dimension, which is the batch in its own
        pipelines. All rows of a request have equal maps there, so that each map attends to itself.

        Args:
            depth: [n, 3, h, w] in [0, 1].

        Returns:
            [n, C, h/8, w/8].
        """
        hint = self.embedding(depth)
        token = (hint.mean(dim=(2, 3)) + self.task_embedding[DEPTH_MODE])[None]  # [1, n, C]
        for layer in self.layers:
            token = layer(token)
        output: torch.Tensor = hint + self.projection(token[0])[:, :, None, None]
        return output


class ControlTypeEmbedding(nn.Module):
    """Embedding of text and sizes, with that of the control type added."""

    def __init__(self, union: ControlNetUnionModel) -> None:
        super().__init__()
        self.added = union.add_embedding
        self.type_projection = union.control_type_proj
        self.type_embedding = union.control_add_embedding
        self.num_types = union.config.num_control_type

    def forward(self, conditions: torch.Tensor) -> torch.Tensor:
        """Embed pooled text and sizes, [R, P + 6 * S], as [R, C]."""
        types = torch.zeros(self.num_types, device=conditions.device)
        types[DEPTH_MODE] = 1.0
        projected = self.type_projection(types).flatten().to(conditions.dtype)
        output: torch.Tensor = self.added(conditions) + self.type_embedding(projected[None])
        return output


def as_depth_controlnet(union: ControlNetUnionModel) -> ControlNetModel:
    """Return a plain ControlNet that computes what a union network does with one depth map.

    It consists of the union network's own modules, which stay unchanged.
    """
    known = inspect.signature(ControlNetModel.__init__).parameters
    settings: dict[str, Any] = {key: union.config[key] for key in union.config if key in known}
    with torch.device("meta"):
        network = ControlNetModel(**settings)
    for name, _ in list(network.named_children()):
        setattr(network, name, getattr(union, name))
    network.controlnet_cond_embedding = UnionHintEmbedding(union)
    network.add_embedding = ControlTypeEmbedding(union)
    return network.eval().requires_grad_(False)
