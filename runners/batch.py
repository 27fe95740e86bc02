"""What of a batch stays the same from step to step, gathered once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from runners.added_conditions import added_embedding
from runners.byte_cache import ByteCache
from runners.conditioning import PromptEmbedding
from runners.device import Device
from runners.sample import Sample
from runners.text_attention import KeyValue

_TEXT_BYTES = 256 * 2**20
_KEPT_BATCHES = 4


@dataclass(frozen=True, slots=True, eq=False)
class TextRows:
    """The text of a batch's rows as the networks see it. R rows, L positions.

    Shapes: `embeds` [R, L, D], `pooled` [R, P]; `unet` and `controlnet` are the keys and values of
    their cross-attention layers, the batch's LoRAs applied.
    """

    embeds: torch.Tensor
    pooled: torch.Tensor
    unet: Sequence[KeyValue]
    controlnet: Sequence[KeyValue]
    prompts: tuple[PromptEmbedding, ...]
    """Held so that their identities, by which these rows are known, stay theirs."""

    @property
    def bytes(self) -> int:
        """Memory of all tensors."""
        pairs = [tensor for pair in (*self.unet, *self.controlnet) for tensor in pair]
        tensors = (self.embeds, self.pooled, *pairs)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """A batch as the networks see it: the guided samples' unconditional rows, then one conditional
    row per sample. R rows.

    Shapes: `latents` [R, 4, h, w], written anew at each step; `time_ids` [R, 6]; `added` and
    `control_added` [R, C], what pooled text and sizes add to the UNet's and the ControlNet's time
    embedding (None where it acts on none); `hints` [R, C, h, w]; `strengths` [R, 1, 1, 1], the
    ControlNet's where it acts.
    """

    owners: tuple[Sample, ...]
    text: TextRows
    latents: torch.Tensor
    time_ids: torch.Tensor
    added: torch.Tensor
    control_added: torch.Tensor | None
    hints: torch.Tensor
    strengths: torch.Tensor


class BatchCache:
    """The batches of the last steps, and the text of the last prompts, within 256 MiB.

    Consecutive steps have equal batches, and consecutive requests often equal prompts. For one
    thread.
    """

    def __init__(self, device: Device, text_bytes: int = _TEXT_BYTES) -> None:
        self._device = device
        self._batches: OrderedDict[tuple[int, ...], Batch] = OrderedDict()
        self._texts: ByteCache[tuple[Any, ...], TextRows] = ByteCache(
            text_bytes, lambda text: text.bytes
        )

    def batch(self, samples: Sequence[Sample]) -> Batch:
        """The batch of samples of one group, in inference mode, their LoRAs active."""
        key = tuple(map(id, samples))
        if key not in self._batches:
            if len(self._batches) >= _KEPT_BATCHES:
                self._batches.popitem(last=False)
            self._batches[key] = self._gather(samples)
        self._batches.move_to_end(key)
        return self._batches[key]

    def retain(self, pending: Collection[Sample]) -> None:
        """Let go of every batch with a sample that is not pending any more, and so of its weights;
        the texts stay."""
        for key, batch in list(self._batches.items()):
            if not all(owner in pending for owner in batch.owners):
                del self._batches[key]

    def clear(self) -> None:
        """Let go of everything, for its memory."""
        self._batches.clear()
        self._texts.clear()

    def _gather(self, samples: Sequence[Sample]) -> Batch:
        owners = (*(sample for sample in samples if sample.guided), *samples)
        first = samples[0]
        height, width = first.job.height // 8, first.job.width // 8
        dtype, device = self._device.dtype, self._device.torch_device
        shape = (len(owners), first.latents.shape[1], height, width)
        strengths = torch.tensor([owner.job.controlnet_strength for owner in owners], dtype=dtype)
        text = self._text(samples)
        time_ids = torch.cat([sample.conditioning.time_ids for sample in owners])
        return Batch(
            owners=owners,
            text=text,
            latents=torch.empty(shape, dtype=dtype, device=device),
            time_ids=time_ids,
            added=added_embedding(first.variant.unet, text.pooled, time_ids),
            control_added=(
                added_embedding(first.controlnet.network, text.pooled, time_ids)
                if any(owner.job.controlnet_strength for owner in owners)
                else None
            ),
            hints=torch.cat([sample.conditioning.hint for sample in owners]),
            strengths=strengths.to(device).view(-1, 1, 1, 1),
        )

    def _text(self, samples: Sequence[Sample]) -> TextRows:
        first = samples[0]
        prompts = tuple(sample.conditioning.prompt for sample in samples)
        guided = tuple(sample.guided for sample in samples)
        # Not the networks themselves: what is unloaded must not live on here.
        networks = (first.variant.text.serial, first.controlnet.text.serial)
        key = (*networks, first.job.loras, guided, *map(id, prompts))
        return self._texts.get(key, lambda: _read(samples, prompts))


def _read(samples: Sequence[Sample], prompts: tuple[PromptEmbedding, ...]) -> TextRows:
    embeds, pooled = [], []
    for sample, prompt in zip(samples, prompts, strict=True):
        if sample.guided:
            assert prompt.negative_embeds is not None
            assert prompt.negative_pooled is not None
            embeds.append(prompt.negative_embeds)
            pooled.append(prompt.negative_pooled)
    rows = torch.cat([*embeds, *(prompt.embeds for prompt in prompts)])
    first = samples[0]
    return TextRows(
        embeds=rows,
        pooled=torch.cat([*pooled, *(prompt.pooled for prompt in prompts)]),
        unet=first.variant.text.read(rows),
        controlnet=first.controlnet.text.read(rows),
        prompts=prompts,
    )
