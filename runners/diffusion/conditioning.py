"""Conditioning tensors of prompts, sizes and depth maps, built once per request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from compel import EmbeddingsProvider, ReturnedEmbeddingsType, SplitLongTextMode

from common.lru_cache import LRUCache
from common.prompt_syntax import Fragment, parse_prompt
from common.protocol import GenerateJob
from runners.device import Device
from runners.diffusion.img2img import InitLatents, encode_init_image
from runners.errors import PromptLengthError
from runners.networks.sdxl import ControlNet, SdxlModel

_CACHE_BYTES = 64 * 2**20
MAX_CHUNKS = 30
"""Chunks per prompt. 30 chunks hold 2250 tokens, so 2000 characters of a Latin script always fit.

Each chunk lengthens every cross-attention and adds 25 MB of SDXL keys and values per row."""


@dataclass(frozen=True, slots=True, eq=False)
class PromptEmbedding:
    """Text embeddings of a prompt and its negative prompt.

    Shapes: `embeds` [1, 77 * chunks, D], `pooled` [1, P], both in the text encoders' dtype on the
    device. The `negative_` tensors have the same shapes, or are None without guidance.
    """

    embeds: torch.Tensor
    pooled: torch.Tensor
    negative_embeds: torch.Tensor | None
    negative_pooled: torch.Tensor | None

    @property
    def bytes(self) -> int:
        """Bytes of all tensors."""
        tensors = (self.embeds, self.pooled, self.negative_embeds, self.negative_pooled)
        return sum(t.numel() * t.element_size() for t in tensors if t is not None)


@dataclass(frozen=True, slots=True, eq=False)
class Conditioning:
    """Conditioning of one request, shared by its images and constant between steps.

    Shapes: `time_ids` [1, 6] (original size, crop and target size, in pixels) and `hint`
    [1, C, h/8, w/8], both in the networks' dtype on the device. `start` is the init image of
    image-to-image, or None.
    """

    prompt: PromptEmbedding
    time_ids: torch.Tensor
    hint: torch.Tensor
    start: InitLatents | None = None


class ConditioningBuilder:
    """Builder of conditionings with a 64 MiB cache of recent prompt embeddings."""

    def __init__(self, device: Device, cache_bytes: int = _CACHE_BYTES) -> None:
        self._device = device
        self._embeddings: LRUCache[tuple[Any, ...], PromptEmbedding] = LRUCache(
            cache_bytes, lambda embedding: embedding.bytes
        )

    @torch.inference_mode()
    def build(self, job: GenerateJob, variant: SdxlModel, controlnet: ControlNet) -> Conditioning:
        """Build the conditioning of one request.

        Args:
            job: the request; `depth` and `image` are uint8 bytes of its size.
            variant: the model that provides tokenizers, text encoders and VAE.
            controlnet: the ControlNet that embeds the depth map.

        Raises:
            PromptLengthError: the prompt or negative prompt needs more than `MAX_CHUNKS` chunks.
        """
        size = (job.height, job.width)
        time_ids = torch.tensor([[*size, 0, 0, *size]], dtype=self._device.dtype)
        return Conditioning(
            prompt=self._prompt(job, variant),
            time_ids=time_ids.to(self._device.torch_device),
            hint=controlnet.hint(self._depth_tensor(job)),
            start=encode_init_image(job, variant.vae, self._device) if job.image else None,
        )

    def _depth_tensor(self, job: GenerateJob) -> torch.Tensor:
        """Return the depth map as [1, 3, h, w] in [0, 1] with equal channels; zeros without one."""
        depth = job.depth or bytes(job.height * job.width)
        grey = torch.from_numpy(np.frombuffer(depth, np.uint8).copy())
        image = grey.to(self._device.torch_device).view(1, 1, job.height, job.width)
        # The reference divides in float32 and casts afterwards.
        return (image.float() / 255.0).to(self._device.dtype).expand(1, 3, -1, -1)

    def _prompt(self, job: GenerateJob, variant: SdxlModel) -> PromptEmbedding:
        guided = job.guidance_scale > 1.0
        negative = job.negative_prompt if guided else None
        zeros = variant.spec.force_zeros_for_empty_prompt
        key = (variant.text_encoder_key, zeros, job.prompt, guided, negative)
        return self._embeddings.get_or_create(
            key, lambda: embed_prompt(variant, job.prompt, negative, guided)
        )


def embed_prompt(
    variant: SdxlModel, prompt: str, negative_prompt: str | None, guided: bool
) -> PromptEmbedding:
    """Encode a prompt with both text encoders, as diffusers' SDXL pipelines do.

    Prompts longer than the encoders' 77 positions are encoded in chunks, and the chunk embeddings
    are concatenated. The pooled embedding comes from the first chunk. Empty chunks pad the shorter
    of prompt and negative prompt. compel applies the weights of phrases; the pooled embedding
    ignores them.

    Args:
        variant: the model that provides tokenizers and text encoders.
        prompt: the text, with optional weights such as `(phrase:1.3)`.
        negative_prompt: the text to steer away from; None uses zeros or the empty prompt,
            depending on the variant.
        guided: whether classifier-free guidance needs the negative embeddings.

    Raises:
        PromptLengthError: the prompt or negative prompt needs more than `MAX_CHUNKS` chunks.
    """
    positive = parse_prompt(prompt)
    chunks = _count_bounded_chunks("prompt", variant, positive)
    if not guided:
        return PromptEmbedding(*_encode(variant, positive, chunks), None, None)
    if negative_prompt is None and variant.spec.force_zeros_for_empty_prompt:
        embeds, pooled = _encode(variant, positive, chunks)
        return PromptEmbedding(embeds, pooled, torch.zeros_like(embeds), torch.zeros_like(pooled))
    negative = parse_prompt(negative_prompt or "")
    chunks = max(chunks, _count_bounded_chunks("negative_prompt", variant, negative))
    return PromptEmbedding(*_encode(variant, positive, chunks), *_encode(variant, negative, chunks))


def _count_bounded_chunks(field: str, variant: SdxlModel, prompt: Sequence[Fragment]) -> int:
    """Count chunks and check the limit.

    Raises:
        PromptLengthError: the prompt needs more than `MAX_CHUNKS` chunks.
    """
    chunks = count_chunks(variant, prompt)
    if chunks > MAX_CHUNKS:
        room = min(tokenizer.model_max_length for tokenizer in variant.tokenizers) - 2
        raise PromptLengthError(f"{field}: more than {MAX_CHUNKS * room} tokens")
    return chunks


def count_chunks(variant: SdxlModel, prompt: Sequence[Fragment]) -> int:
    """Return the number of 77-position chunks of a prompt, the maximum over both tokenizers."""
    return max(len(_chunk_ids(tokenizer, prompt)) for tokenizer in variant.tokenizers)


def _encode(
    variant: SdxlModel, prompt: Sequence[Fragment], chunks: int
) -> tuple[torch.Tensor, torch.Tensor]:
    parts = []
    pooled = None
    for tokenizer, encoder in zip(variant.tokenizers, variant.text_encoders, strict=True):
        rows = _chunk_ids(tokenizer, prompt)
        own = len(rows)
        rows += [_pad(tokenizer, [])] * (chunks - own)
        ids = torch.tensor(rows, device=encoder.device)
        output = encoder(ids, output_hidden_states=True)
        # SDXL was trained on the penultimate layer.
        hidden = output.hidden_states[-2].reshape(1, chunks * ids.shape[1], -1)
        if any(fragment.weight != 1 for fragment in prompt):
            weighted = _encode_weighted(tokenizer, encoder, prompt)
            hidden = torch.cat([weighted, hidden[:, own * ids.shape[1] :]], dim=1)
        parts.append(hidden)
        pooled = output[0][:1]
    assert pooled is not None
    return torch.cat(parts, dim=-1), pooled


def _encode_weighted(tokenizer: Any, encoder: Any, prompt: Sequence[Fragment]) -> torch.Tensor:
    """Return the prompt's embeddings with its weights applied, [1, 77 * own chunks, D]."""
    provider = EmbeddingsProvider(
        tokenizer,
        encoder,
        dtype_for_device_getter=lambda _: encoder.dtype,
        truncate=False,
        returned_embeddings_type=ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED,
        # Split only full chunks, as for a prompt without weights.
        split_long_text_mode=SplitLongTextMode.BRUTAL,
    )
    embeds: torch.Tensor = provider.get_embeddings_for_weighted_prompt_fragments(
        [[fragment.text for fragment in prompt]],
        [[fragment.weight for fragment in prompt]],
        device=encoder.device,
    )
    return embeds


def _chunk_ids(tokenizer: Any, prompt: Sequence[Fragment]) -> list[list[int]]:
    """Return token ids in rows of 77. Fragments are tokenized separately, as compel does."""
    texts = [fragment.text for fragment in prompt]
    rows = tokenizer(texts, add_special_tokens=False, truncation=False, verbose=False).input_ids
    ids = [token for row in rows for token in row]
    room = tokenizer.model_max_length - 2
    return [_pad(tokenizer, ids[i : i + room]) for i in range(0, max(len(ids), 1), room)]


def _pad(tokenizer: Any, ids: list[int]) -> list[int]:
    row = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
    return row + [tokenizer.pad_token_id] * (tokenizer.model_max_length - len(row))
