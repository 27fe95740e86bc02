"""Attention of the transformer blocks with the text's keys and values computed once.

A prompt is constant between steps, and so are its keys and values in each cross-attention layer:
140 matrix products per evaluation of SDXL. They are computed for each new batch and bound to the
layers while the batch is evaluated.

Query, key and value of a self-attention layer come from one matrix product where their weights lie
side by side in memory, which saves two launches per layer.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import nn
from torch.nn import functional as F

from runners.networks.attention_backends import attention
from runners.networks.projection_layout import adjacent_view

KeyValue = tuple[torch.Tensor, torch.Tensor]
"""Key and value of one layer, both [R, heads, L, head dim]."""


class CachedCrossAttnProcessor:
    """Attention processor for the transformer blocks of diffusers' SDXL networks.

    It omits the operations of diffusers' default processor that have no effect in these blocks,
    such as a division by one. `text` is bound for cross-attention while a batch is evaluated.

    `joined` is the view [3C, C] of a self-attention layer's query, key and value weights, None
    without one; `join_projections` sets it.

    Args:
        is_joinable: whether `joined` may be set.
    """

    def __init__(self, is_joinable: bool = True) -> None:
        self.text: KeyValue | None = None
        self.is_joinable = is_joinable
        self.joined: torch.Tensor | None = None

    @staticmethod
    def serves(attention: Attention) -> bool:
        """Return whether a layer has the configuration of SDXL's transformer blocks."""
        return (
            attention.spatial_norm is None
            and attention.group_norm is None
            and not attention.norm_cross
            and attention.norm_q is None
            and attention.norm_k is None
            and not attention.residual_connection
            and attention.rescale_output_factor == 1.0
            and attention.to_k is not None
        )

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """Run the attention layer.

        Args:
            attn: the layer.
            hidden_states: [R, S, C].
            encoder_hidden_states: text embeddings [R, L, D], ignored while `text` is bound; None
                for self-attention.

        Returns:
            [R, S, C], in the dtype and on the device of `hidden_states`.
        """
        # The view is no input of a compiled graph, which must not depend on the active adapters.
        joined = None if torch.compiler.is_compiling() else self.joined
        if joined is not None and encoder_hidden_states is None:
            query, key, value = _project(joined, hidden_states, attn.heads)
        else:
            query = _heads(attn.to_q(hidden_states), attn.heads)
            if self.text is not None and encoder_hidden_states is not None:
                key, value = self.text
            else:
                source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
                key, value = keys_values(attn, source)
        attended = attention(query, key, value)
        merged = attended.transpose(1, 2).flatten(2)
        output: torch.Tensor = attn.to_out[0](merged)
        return output


class _DirectAttention(Attention):  # type: ignore[misc]
    """Attention layer that calls its `CachedCrossAttnProcessor` directly.

    diffusers' own inspects the processor's signature at every call, which takes a tenth of the
    host's time of a step.
    """

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """Run the layer on [R, S, C]; the blocks of SDXL pass no mask."""
        processor: Any = self.processor
        output: torch.Tensor = processor(self, hidden_states, encoder_hidden_states)
        return output


class CrossAttentionCache:
    """Cross-attention layers of one network, with a `uid` that is unique within the process.

    Args:
        network: a UNet or ControlNet, whose attention layers get the processors.
        is_joinable: whether self-attention may take one product for query, key and value. Low-rank
            adapters change each projection's output, so there it may not.
    """

    _uids = itertools.count()

    def __init__(self, network: nn.Module, is_joinable: bool = True) -> None:
        self.uid = next(self._uids)
        self._layers: list[tuple[Attention, CachedCrossAttnProcessor]] = []
        for layer in network.modules():
            if not isinstance(layer, Attention) or not CachedCrossAttnProcessor.serves(layer):
                continue
            processor: Any = layer.processor
            # A network that two variants share already has the processors, and may be in use.
            if not isinstance(processor, CachedCrossAttnProcessor):
                processor = CachedCrossAttnProcessor(is_joinable)
                layer.set_processor(processor)
                layer.__class__ = _DirectAttention
                join_projections(layer)
            if layer.is_cross_attention:
                self._layers.append((layer, processor))

    def compute(self, embeds: torch.Tensor) -> list[KeyValue]:
        """Return every layer's keys and values of text embeddings [R, L, D], with active LoRAs."""
        return [keys_values(layer, embeds) for layer, _ in self._layers]

    @contextlib.contextmanager
    def bind(self, text: Sequence[KeyValue]) -> Iterator[None]:
        """Bind the result of `compute` to the layers until the block ends."""
        for (_, processor), pair in zip(self._layers, text, strict=True):
            processor.text = pair
        try:
            yield
        finally:
            for _, processor in self._layers:
                processor.text = None


def join_projections(layer: nn.Module) -> None:
    """Look up the joined view of a layer's query, key and value weights.

    Called whenever parameters get other memory. Layers without a `CachedCrossAttnProcessor` are
    left as they are.
    """
    processor: Any = getattr(layer, "processor", None)
    if isinstance(processor, CachedCrossAttnProcessor):
        processor.joined = _joined_weight(layer) if processor.is_joinable else None


def separate_projections(network: nn.Module) -> None:
    """Let a network's self-attention layers compute query, key and value apart from now on."""
    for layer in network.modules():
        processor: Any = getattr(layer, "processor", None)
        if isinstance(processor, CachedCrossAttnProcessor):
            processor.is_joinable, processor.joined = False, None


def _joined_weight(layer: Any) -> torch.Tensor | None:
    projections = layer.to_q, layer.to_k, layer.to_v
    if layer.is_cross_attention or any(each.bias is not None for each in projections):
        return None
    return adjacent_view([each.weight for each in projections])


def keys_values(attention: Attention, source: torch.Tensor) -> KeyValue:
    """Return a layer's keys and values of [R, L, D]."""
    key, value = attention.to_k(source), attention.to_v(source)
    return _heads(key, attention.heads), _heads(value, attention.heads)


def _project(
    joined: torch.Tensor, hidden_states: torch.Tensor, heads: int
) -> tuple[torch.Tensor, ...]:
    """Return query, key and value of [R, S, C] by one product, each [R, heads, S, C / heads]."""
    rows, length, channels = hidden_states.shape
    projected = F.linear(hidden_states, joined)
    split = projected.view(rows, length, 3, heads, channels // heads)
    return split.permute(2, 0, 3, 1, 4).unbind(0)


def _heads(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Return [R, L, C] as a view of shape [R, heads, L, C / heads]."""
    rows, length, channels = tensor.shape
    return tensor.view(rows, length, heads, channels // heads).transpose(1, 2)


def added_cond_embedding(
    network: Any, pooled: torch.Tensor, time_ids: torch.Tensor
) -> torch.Tensor:
    """Return the embedding that a network adds to its time embedding, [R, C].

    Args:
        network: a UNet or ControlNet.
        pooled: pooled text embeddings, [R, P].
        time_ids: original size, crop and target size in pixels, [R, 6].
    """
    sizes = network.add_time_proj(time_ids.flatten()).reshape(len(pooled), -1)
    conditions = torch.cat([pooled, sizes], dim=-1).to(pooled.dtype)
    embedding: torch.Tensor = network.add_embedding(conditions)
    return embedding


@contextlib.contextmanager
def bind_added_cond(network: Any, embedding: torch.Tensor) -> Iterator[None]:
    """Bind the result of `added_cond_embedding` to a network until the block ends."""
    # The overrides are removed at the end, because a permanent one would form a reference cycle
    # and keep an unloaded network in memory until the next garbage collection.
    network.add_time_proj.forward = lambda sizes: sizes
    network.add_embedding.forward = lambda _: embedding
    try:
        yield
    finally:
        del network.add_time_proj.forward, network.add_embedding.forward
