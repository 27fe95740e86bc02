"""Prompts, sizes and depth maps as the tensors that guide the networks; each made once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from compel import EmbeddingsProvider, ReturnedEmbeddingsType, SplitLongTextMode

from runners.byte_cache import ByteCache
from runners.device import Device
from runners.messages import PaintJob
from runners.networks import ControlNet, Variant
from runners.prompt_weights import Fragment, parse_prompt
from runners.start import Start, encode_start

_CACHE_BYTES = 64 * 2**20
MAX_CHUNKS = 30
"""Stretches of a text; 2250 tokens, so that 2000 characters of a Latin script always fit. Each one
lengthens every cross-attention, and takes 25 MB of SDXL's keys and values per row."""


class PromptLengthError(ValueError):
    """A text of too many tokens; the message is for the caller."""


@dataclass(frozen=True, slots=True, eq=False)
class PromptEmbedding:
    """What a prompt, and what guidance steers away from, is to the UNet.

    Shapes: `embeds` [1, 77 * chunks, D], `pooled` [1, P]; the `negative_` ones are alike, or
    None without guidance.
    """

    embeds: torch.Tensor
    pooled: torch.Tensor
    negative_embeds: torch.Tensor | None
    negative_pooled: torch.Tensor | None

    @property
    def bytes(self) -> int:
        """Memory of all tensors."""
        tensors = (self.embeds, self.pooled, self.negative_embeds, self.negative_pooled)
        return sum(t.numel() * t.element_size() for t in tensors if t is not None)


@dataclass(frozen=True, slots=True, eq=False)
class Conditioning:
    """All that guides one request: shared by its pictures, unchanged between steps.

    Shapes: `time_ids` [1, 6] (original size, crop, target size), `hint` [1, C, h/8, w/8].
    `start` is what image-to-image starts from, None where noise alone does.
    """

    prompt: PromptEmbedding
    time_ids: torch.Tensor
    hint: torch.Tensor
    start: Start | None = None


class Conditioner:
    """Makes conditionings; keeps the embeddings of recent prompts, within 64 MiB."""

    def __init__(self, device: Device, cache_bytes: int = _CACHE_BYTES) -> None:
        self._device = device
        self._embeddings: ByteCache[tuple[Any, ...], PromptEmbedding] = ByteCache(
            cache_bytes, lambda embedding: embedding.bytes
        )

    @torch.inference_mode()
    def condition(self, job: PaintJob, variant: Variant, controlnet: ControlNet) -> Conditioning:
        """The conditioning of one request."""
        size = (job.height, job.width)
        time_ids = torch.tensor([[*size, 0, 0, *size]], dtype=self._device.dtype)
        return Conditioning(
            prompt=self._prompt(job, variant),
            time_ids=time_ids.to(self._device.torch_device),
            hint=controlnet.hint(self._depth_tensor(job)),
            start=encode_start(job, variant.vae, self._device) if job.image else None,
        )

    def _depth_tensor(self, job: PaintJob) -> torch.Tensor:
        """uint8 bytes to [1, 3, h, w] in [0, 1], the three channels alike; without any, zeros."""
        depth = job.depth or bytes(job.height * job.width)
        grey = torch.from_numpy(np.frombuffer(depth, np.uint8).copy())
        picture = grey.to(self._device.torch_device).view(1, 1, job.height, job.width)
        # Divided in float32, as the reference does, and cast after.
        return (picture.float() / 255.0).to(self._device.dtype).expand(1, 3, -1, -1)

    def _prompt(self, job: PaintJob, variant: Variant) -> PromptEmbedding:
        guided = job.guidance_scale > 1.0
        negative = job.negative_prompt if guided else None
        zeros = variant.spec.force_zeros_for_empty_prompt
        key = (variant.text_key, zeros, job.prompt, guided, negative)
        return self._embeddings.get(
            key, lambda: embed_prompt(variant, job.prompt, negative, guided)
        )


def embed_prompt(
    variant: Variant, prompt: str, negative_prompt: str | None, guided: bool
) -> PromptEmbedding:
    """Encode a prompt with both text encoders, as diffusers' SDXL pipelines do.

    Prompts longer than the encoders' 77 positions are encoded in chunks whose embeddings are
    laid one after another; the pooled embedding is the first chunk's. Where prompt and negative
    prompt differ in length, empty chunks fill the shorter. Weighted phrases are compel's work;
    the pooled embedding knows no weights.

    Raises:
        PromptLengthError: either text needs more than `MAX_CHUNKS` chunks.
    """
    positive = parse_prompt(prompt)
    chunks = _bounded_chunks("prompt", variant, positive)
    if not guided:
        return PromptEmbedding(*_encode(variant, positive, chunks), None, None)
    if negative_prompt is None and variant.spec.force_zeros_for_empty_prompt:
        embeds, pooled = _encode(variant, positive, chunks)
        return PromptEmbedding(embeds, pooled, torch.zeros_like(embeds), torch.zeros_like(pooled))
    negative = parse_prompt(negative_prompt or "")
    chunks = max(chunks, _bounded_chunks("negative_prompt", variant, negative))
    return PromptEmbedding(*_encode(variant, positive, chunks), *_encode(variant, negative, chunks))


def _bounded_chunks(field: str, variant: Variant, prompt: Sequence[Fragment]) -> int:
    chunks = count_chunks(variant, prompt)
    if chunks > MAX_CHUNKS:
        room = min(tokenizer.model_max_length for tokenizer in variant.tokenizers) - 2
        raise PromptLengthError(f"{field}: more than {MAX_CHUNKS * room} tokens")
    return chunks


def count_chunks(variant: Variant, prompt: Sequence[Fragment]) -> int:
    """How many stretches of 77 positions the prompt needs, by the more demanding tokenizer."""
    return max(len(_chunk_ids(tokenizer, prompt)) for tokenizer in variant.tokenizers)


def _encode(
    variant: Variant, prompt: Sequence[Fragment], chunks: int
) -> tuple[torch.Tensor, torch.Tensor]:
    parts = []
    pooled = None
    for tokenizer, encoder in zip(variant.tokenizers, variant.text_encoders, strict=True):
        rows = _chunk_ids(tokenizer, prompt)
        own = len(rows)
        rows += [_padded(tokenizer, [])] * (chunks - own)
        ids = torch.tensor(rows, device=encoder.device)
        output = encoder(ids, output_hidden_states=True)
        # SDXL was trained on the layer before the last.
        hidden = output.hidden_states[-2].reshape(1, chunks * ids.shape[1], -1)
        if any(fragment.weight != 1 for fragment in prompt):
            weighted = _weighted(tokenizer, encoder, prompt)
            hidden = torch.cat([weighted, hidden[:, own * ids.shape[1] :]], dim=1)
        parts.append(hidden)
        pooled = output[0][:1]
    assert pooled is not None
    return torch.cat(parts, dim=-1), pooled


def _weighted(tokenizer: Any, encoder: Any, prompt: Sequence[Fragment]) -> torch.Tensor:
    """The prompt's embeddings with its weights applied: [1, 77 * own chunks, D]."""
    provider = EmbeddingsProvider(
        tokenizer,
        encoder,
        dtype_for_device_getter=lambda _: encoder.dtype,
        truncate=False,
        returned_embeddings_type=ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED,
        # Chunks end where they are full, as for a prompt without weights.
        split_long_text_mode=SplitLongTextMode.BRUTAL,
    )
    embeds: torch.Tensor = provider.get_embeddings_for_weighted_prompt_fragments(
        [[fragment.text for fragment in prompt]],
        [[fragment.weight for fragment in prompt]],
        device=encoder.device,
    )
    return embeds


def _chunk_ids(tokenizer: Any, prompt: Sequence[Fragment]) -> list[list[int]]:
    """Token ids in rows of 77. Fragments are tokenised apart, as compel does."""
    texts = [fragment.text for fragment in prompt]
    rows = tokenizer(texts, add_special_tokens=False, truncation=False, verbose=False).input_ids
    ids = [token for row in rows for token in row]
    room = tokenizer.model_max_length - 2
    return [_padded(tokenizer, ids[i : i + room]) for i in range(0, max(len(ids), 1), room)]


def _padded(tokenizer: Any, ids: list[int]) -> list[int]:
    row = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
    return row + [tokenizer.pad_token_id] * (tokenizer.model_max_length - len(row))
