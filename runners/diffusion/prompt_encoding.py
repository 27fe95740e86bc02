"""Prompts: token ids in chunks, and their embeddings by both text encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from compel import EmbeddingsProvider, ReturnedEmbeddingsType, SplitLongTextMode

from common.prompt_syntax import Fragment, parse_prompt
from runners.buffer_layout import upload
from runners.errors import PromptLengthError
from runners.networks.sdxl import SdxlModel

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
class PromptTokens:
    """Token ids of a prompt, and of its negative prompt if that is encoded.

    `ids` has int64 [prompts * chunks, 77] for each tokenizer, `ids_0` and `ids_1`. With `has_zeros`
    the negative embeddings are zeros.
    """

    prompts: tuple[Sequence[Fragment], ...]
    chunks: int
    ids: Mapping[str, torch.Tensor]
    has_zeros: bool


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
    tokens = tokenize_prompt(variant, prompt, negative_prompt, guided)
    return encode_prompt(variant, tokens, upload(tokens.ids, variant.text_encoders[0].device))


def tokenize_prompt(
    variant: SdxlModel, prompt: str, negative_prompt: str | None, guided: bool
) -> PromptTokens:
    """Return the token ids of a prompt and its negative prompt; the arguments of `embed_prompt`.

    Raises:
        PromptLengthError: the prompt or negative prompt needs more than `MAX_CHUNKS` chunks.
    """
    positive = parse_prompt(prompt)
    prompts = [positive]
    chunks = _count_bounded_chunks("prompt", variant, positive)
    zeros = negative_prompt is None and variant.spec.force_zeros_for_empty_prompt
    if guided and not zeros:
        negative = parse_prompt(negative_prompt or "")
        chunks = max(chunks, _count_bounded_chunks("negative_prompt", variant, negative))
        prompts.append(negative)
    ids = {}
    for number, tokenizer in enumerate(variant.tokenizers):
        rows = []
        for each in prompts:
            own = _chunk_ids(tokenizer, each)
            rows += own + [_pad(tokenizer, [])] * (chunks - len(own))
        ids[f"ids_{number}"] = torch.tensor(rows)
    return PromptTokens(tuple(prompts), chunks, ids, has_zeros=guided and zeros)


@torch.inference_mode()
def encode_prompt(
    variant: SdxlModel, tokens: PromptTokens, ids: Mapping[str, torch.Tensor]
) -> PromptEmbedding:
    """Encode tokens with both text encoders, the prompt and its negative prompt as one batch.

    Args:
        variant: the model that provides the text encoders.
        tokens: the prompts and their number of chunks.
        ids: the token ids of `tokens` on the device.
    """
    parts: list[list[torch.Tensor]] = [[] for _ in tokens.prompts]
    pooled: list[torch.Tensor] = []
    for number, (tokenizer, encoder) in enumerate(
        zip(variant.tokenizers, variant.text_encoders, strict=True)
    ):
        output = encoder(ids[f"ids_{number}"], output_hidden_states=True)
        pooled = []
        for place, prompt in enumerate(tokens.prompts):
            rows = slice(place * tokens.chunks, (place + 1) * tokens.chunks)
            # SDXL was trained on the penultimate layer.
            hidden = output.hidden_states[-2][rows].flatten(0, 1)[None]
            if any(fragment.weight != 1 for fragment in prompt):
                weighted = _encode_weighted(tokenizer, encoder, prompt)
                hidden = torch.cat([weighted, hidden[:, weighted.shape[1] :]], dim=1)
            parts[place].append(hidden)
            pooled.append(output[0][rows][:1])
    embeds = [torch.cat(each, dim=-1) for each in parts]
    if tokens.has_zeros:
        embeds.append(torch.zeros_like(embeds[0]))
        pooled.append(torch.zeros_like(pooled[0]))
    if len(embeds) == 1:
        return PromptEmbedding(embeds[0], pooled[0], None, None)
    return PromptEmbedding(embeds[0], pooled[0], embeds[1], pooled[1])


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
