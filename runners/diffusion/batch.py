"""Batch tensors that stay constant between denoising steps, assembled once and cached."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from common.lru_cache import LRUCache
from runners.device import Device
from runners.diffusion.prompt_encoding import PromptEmbedding
from runners.diffusion.sample import Sample
from runners.networks.static_conditioning import KeyValue, added_cond_embedding

_TEXT_BYTES = 256 * 2**20
_MAX_BATCHES = 4


@dataclass(frozen=True, slots=True, eq=False)
class BatchText:
    """Text conditioning of a batch with R rows and L token positions.

    Shapes: `embeds` [R, L, D], `pooled` [R, P], both in the networks' dtype on the device. `unet`
    and `controlnet` are the keys and values of their cross-attention layers, with the batch's LoRAs
    applied.
    """

    embeds: torch.Tensor
    pooled: torch.Tensor
    unet: Sequence[KeyValue]
    controlnet: Sequence[KeyValue]
    prompts: tuple[PromptEmbedding, ...]
    """References that prevent reuse of these objects' ids, which are part of the cache key."""

    @property
    def bytes(self) -> int:
        """Bytes of all tensors."""
        pairs = [tensor for pair in (*self.unet, *self.controlnet) for tensor in pair]
        tensors = (self.embeds, self.pooled, *pairs)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Network inputs of a batch with R rows, in the networks' dtype on the device.

    The unconditional rows of the guided samples come first, then one conditional row per sample.

    Shapes: `latents` [R, 4, h, w], overwritten at each step; `time_ids` [R, 6]; `hints`
    [R, C, h, w]; `strengths` [R, 1, 1, 1], the ControlNet strengths; `rows` [R], the numbers of the
    rows as int64. `added` and `control_added`
    [R, C] are the embeddings of pooled text and sizes that the UNet and the ControlNet add to their
    time embedding. `control_added` is None if every ControlNet strength is 0. `guidance` [R, C] are
    the embeddings of the guidance scales, None for UNets that take none.
    """

    row_samples: tuple[Sample, ...]
    text: BatchText
    latents: torch.Tensor
    time_ids: torch.Tensor
    added: torch.Tensor
    control_added: torch.Tensor | None
    hints: torch.Tensor
    strengths: torch.Tensor
    rows: torch.Tensor
    guidance: torch.Tensor | None


class BatchCache:
    """Cache of the last four batches and of recent text conditioning, up to 256 MiB.

    Consecutive steps have equal batches, and consecutive requests often have equal prompts. Not
    thread-safe.
    """

    def __init__(self, device: Device, text_bytes: int = _TEXT_BYTES) -> None:
        self._device = device
        self._batches: OrderedDict[tuple[tuple[int, int], ...], Batch] = OrderedDict()
        self._texts: LRUCache[tuple[Any, ...], BatchText] = LRUCache(
            text_bytes, lambda text: text.bytes
        )

    def batch(self, samples: Sequence[Sample]) -> Batch:
        """Return the batch of samples that share a group key.

        The caller is in inference mode and has activated the samples' LoRAs.
        """
        # A sample's rows change where its guidance begins or ends.
        key = tuple((id(sample), sample.batch_rows) for sample in samples)
        if key not in self._batches:
            if len(self._batches) >= _MAX_BATCHES:
                self._batches.popitem(last=False)
            self._batches[key] = self._gather(samples)
        self._batches.move_to_end(key)
        return self._batches[key]

    def evict_finished(self, pending: Collection[Sample]) -> None:
        """Evict every batch with a sample that is no longer pending.

        This releases the batch's references to weights. Text conditioning stays cached.
        """
        for key, batch in list(self._batches.items()):
            if not all(owner in pending for owner in batch.row_samples):
                del self._batches[key]

    def clear(self) -> None:
        """Evict everything to free memory."""
        self._batches.clear()
        self._texts.clear()

    def _gather(self, samples: Sequence[Sample]) -> Batch:
        owners = (*(sample for sample in samples if sample.uses_cfg), *samples)
        first = samples[0]
        height, width = first.job.height // 8, first.job.width // 8
        dtype, device = self._device.dtype, self._device.torch_device
        shape = (len(owners), first.latents.shape[1], height, width)
        text = self._text(samples)
        time_ids = torch.cat([sample.conditioning.time_ids for sample in owners])
        return Batch(
            row_samples=owners,
            text=text,
            latents=torch.empty(shape, dtype=dtype, device=device),
            time_ids=time_ids,
            added=added_cond_embedding(first.variant.unet, text.pooled, time_ids),
            control_added=(
                added_cond_embedding(first.controlnet.network, text.pooled, time_ids)
                if any(owner.job.controlnet_strength for owner in owners)
                else None
            ),
            hints=torch.cat([sample.conditioning.hint for sample in owners]),
            strengths=torch.cat([sample.conditioning.strength for sample in owners]),
            rows=torch.arange(len(owners), device=device),
            guidance=_gather_guidance(owners),
        )

    def _text(self, samples: Sequence[Sample]) -> BatchText:
        first = samples[0]
        prompts = tuple(sample.conditioning.prompt for sample in samples)
        guided = tuple(sample.uses_cfg for sample in samples)
        # The key holds uids because references to the networks would keep unloaded weights alive.
        networks = (first.variant.cross_attention.uid, first.controlnet.cross_attention.uid)
        loras = first.variant.loras.set_key(first.job.loras)
        key = (*networks, loras, guided, *map(id, prompts))
        return self._texts.get_or_create(key, lambda: _build_text(samples, prompts))


def _gather_guidance(owners: Sequence[Sample]) -> torch.Tensor | None:
    found = [sample.conditioning.guidance for sample in owners]
    # The samples share a UNet, so either all of them have an embedding or none.
    given = [guidance for guidance in found if guidance is not None]
    return torch.cat(given) if given else None


def _build_text(samples: Sequence[Sample], prompts: tuple[PromptEmbedding, ...]) -> BatchText:
    embeds, pooled = [], []
    for sample, prompt in zip(samples, prompts, strict=True):
        if sample.uses_cfg:
            assert prompt.negative_embeds is not None
            assert prompt.negative_pooled is not None
            embeds.append(prompt.negative_embeds)
            pooled.append(prompt.negative_pooled)
    rows = torch.cat([*embeds, *(prompt.embeds for prompt in prompts)])
    first = samples[0]
    return BatchText(
        embeds=rows,
        pooled=torch.cat([*pooled, *(prompt.pooled for prompt in prompts)]),
        unet=first.variant.cross_attention.compute(rows),
        controlnet=first.controlnet.cross_attention.compute(rows),
        prompts=prompts,
    )
