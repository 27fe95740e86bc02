"""Attention of the transformer blocks, with the text's keys and values computed once.

A prompt is the same at every step, and so are the keys and values that each cross-attention layer
makes of it: in SDXL 140 products per evaluation. They are made when a batch is first seen and
bound to the layers while it is evaluated.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import nn

from runners.attention import attend

KeyValue = tuple[torch.Tensor, torch.Tensor]
"""Of one layer: both [R, heads, L, head dim]."""


class BlockAttention:
    """An attention processor for layers of transformer blocks in diffusers' SDXL networks.

    What diffusers' own does there, without what it does not use there, such as a division by
    one. `text` is bound for cross-attention while a batch is evaluated.
    """

    def __init__(self) -> None:
        self.text: KeyValue | None = None

    @staticmethod
    def serves(attention: Attention) -> bool:
        """Whether a layer is of the kind that transformer blocks have."""
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
        """[R, S, C] to [R, S, C]; the text, [R, L, D], is not looked at where it is bound."""
        query = _heads(attn.to_q(hidden_states), attn.heads)
        if self.text is not None and encoder_hidden_states is not None:
            key, value = self.text
        else:
            source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
            key, value = keys_values(attn, source)
        attended = attend(query, key, value)
        merged = attended.transpose(1, 2).flatten(2)
        output: torch.Tensor = attn.to_out[0](merged)
        return output


class TextBank:
    """The cross-attention layers of one network; no two that ever were have the same `serial`."""

    _serials = itertools.count()

    def __init__(self, network: nn.Module) -> None:
        self.serial = next(self._serials)
        self._layers: list[tuple[Attention, BlockAttention]] = []
        for layer in network.modules():
            if not isinstance(layer, Attention) or not BlockAttention.serves(layer):
                continue
            processor: Any = layer.processor
            # A network that two variants share has them already.
            if not isinstance(processor, BlockAttention):
                processor = BlockAttention()
                layer.set_processor(processor)
            if layer.is_cross_attention:
                self._layers.append((layer, processor))

    def read(self, embeds: torch.Tensor) -> list[KeyValue]:
        """Every layer's keys and values of a text, [R, L, D]; active LoRAs act."""
        return [keys_values(layer, embeds) for layer, _ in self._layers]

    @contextlib.contextmanager
    def bound(self, text: Sequence[KeyValue]) -> Iterator[None]:
        """Let the layers use what `read` gave, until the block ends."""
        for (_, processor), pair in zip(self._layers, text, strict=True):
            processor.text = pair
        try:
            yield
        finally:
            for _, processor in self._layers:
                processor.text = None


def keys_values(attention: Attention, source: torch.Tensor) -> KeyValue:
    """A layer's keys and values of [R, L, D]."""
    key, value = attention.to_k(source), attention.to_v(source)
    return _heads(key, attention.heads), _heads(value, attention.heads)


def _heads(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """[R, L, C] to [R, heads, L, C / heads], a view."""
    rows, length, channels = tensor.shape
    return tensor.view(rows, length, heads, channels // heads).transpose(1, 2)
