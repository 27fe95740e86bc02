"""Second stage of the base: UNet, ControlNet and both text encoders, trained jointly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import mse_loss
from transformers import CLIPTokenizer

from models.demo.training.data.fields import Size
from models.demo.training.data.prompts import DROPPED
from models.demo.training.latents import Batch
from models.demo.training.loop import Losses
from models.demo.training.networks.building import (
    make_controlnet,
    make_text_encoders,
    make_unet,
)

NOISE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
}
"""SDXL's noise schedule."""
NOISE_OFFSET = 0.1
"""Deviation of a constant added to the noise of each channel (offset noise, Guttenberg, 2023).

SDXL's schedule does not end in pure noise. Without the offset, the networks learn the image's mean
colour from the remaining signal, and a start from pure noise then gives a wrong era.
"""
CONTROL_DROPPED = 0.17
"""Share of samples without ControlNet."""
CONTROL_SCALES = (0.6, 1.2)
"""Range of the ControlNet's scale."""


class Denoiser(nn.Module):
    """All networks of this stage, in one module for one optimiser."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text_encoder, self.text_encoder_2 = make_text_encoders(
            len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id
        )
        self.unet = make_unet()
        self.controlnet = make_controlnet(self.unet)

    @torch.no_grad()
    def load(self, folder: Path, tokenizer: CLIPTokenizer) -> None:
        """Load an exported set's weights; token embeddings are matched by token, not by index."""
        known = CLIPTokenizer.from_pretrained(folder / "tokenizer").get_vocab()
        for name, network in self.named_children():
            kind: Any = type(network)
            stored = kind.from_pretrained(folder / name, use_safetensors=True, dtype=torch.float32)
            state = stored.state_dict()
            for key, value in network.state_dict().items():
                if not key.endswith("token_embedding.weight"):
                    value.copy_(state[key])
                    continue
                for token, index in tokenizer.get_vocab().items():
                    if token in known:
                        value[index] = state[key][known[token]]

    def encode_prompts(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Encode token ids (n, 77) to embeddings (n, 77, 160) and pooled prompts (n, 96).

        As in SDXL, the embeddings are the penultimate layers of both encoders, and the pooled
        prompt is the second encoder's projection at the end token.
        """
        first = self.text_encoder(tokens, output_hidden_states=True)
        second = self.text_encoder_2(tokens, output_hidden_states=True)
        hidden = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
        return hidden, second.text_embeds

    def forward(
        self,
        noisy: Tensor,
        times: Tensor,
        hidden: Tensor,
        added: dict[str, Tensor],
        hints: Tensor,
        scales: Tensor,
    ) -> Tensor:
        """Predict the noise in `noisy`.

        Args:
            noisy: Noisy latents (n, 4, h / 8, w / 8), float32 on the CPU.
            times: Timesteps (n,).
            hidden: Prompt embeddings (n, 77, 160).
            added: Pooled prompts (n, 96) and micro-conditioning (n, 6), by diffusers' names.
            hints: Depth maps (n, 3, h, w) in [0, 1].
            scales: Weights of the ControlNet (n,).

        Returns:
            Predicted noise, of the shape of `noisy`.
        """
        down, middle = self.controlnet(
            noisy, times, hidden, hints, added_cond_kwargs=added, return_dict=False
        )
        weights = scales[:, None, None, None]
        predicted: Tensor = self.unet(
            noisy,
            times,
            hidden,
            added_cond_kwargs=added,
            down_block_additional_residuals=[residual * weights for residual in down],
            mid_block_additional_residual=middle * weights,
        ).sample
        return predicted


def time_ids(rng: np.random.Generator, size: Size, count: int) -> Tensor:
    """Return SDXL's micro-conditioning: original size, crop corner and target size.

    Half of the samples have random sizes, so that sizes which are too expensive to train on do
    not degrade the image.

    Args:
        rng: Generator of the sizes.
        size: True height and width in pixels.
        count: Number of samples.

    Returns:
        Float32 (count, 6), on the CPU.
    """
    rows = []
    for _ in range(count):
        claimed = size
        if rng.random() < 0.5:
            sides = 8 * np.exp(rng.uniform(np.log(16), np.log(192), 2)).astype(int)
            claimed = (int(sides[0]), int(sides[1]))
        rows.append((*claimed, 0, 0, *claimed))
    return torch.tensor(rows, dtype=torch.float32)


def noise_loss(
    denoiser: Denoiser,
    tokenizer: CLIPTokenizer,
    scheduler: DDPMScheduler,
    batch: Batch,
    scaling_factor: float,
    rng: np.random.Generator,
) -> Losses:
    """Return the mean squared error of the predicted noise (DDPM, arXiv:2006.11239).

    Timesteps are uniform. Half of the dropped prompts have zero embeddings, as the pipeline's
    missing negative prompt, and half are the encoded empty text.

    Args:
        denoiser: Networks in training.
        tokenizer: Tokenizer of the prompts.
        scheduler: Scheduler that adds the noise.
        batch: Latents, depth maps and prompts.
        scaling_factor: Factor from the autoencoder's latents to unit deviation.
        rng: Generator of noise, timesteps and dropouts.
    """
    count = len(batch.prompts)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    clean = batch.latents * scaling_factor
    noise = torch.randn(clean.shape, generator=generator)
    noise = noise + NOISE_OFFSET * torch.randn((count, 4, 1, 1), generator=generator)
    times = torch.from_numpy(rng.integers(0, 1000, count))
    noisy = scheduler.add_noise(clean, noise, times)
    draws = rng.random(count)
    texts = [
        "" if drawn < DROPPED / 2 else text
        for text, drawn in zip(batch.prompts, draws, strict=True)
    ]
    kept = torch.from_numpy(~((draws >= DROPPED / 2) & (draws < DROPPED))).float()
    scales = rng.uniform(*CONTROL_SCALES, count) * (rng.random(count) >= CONTROL_DROPPED)
    # On the CPU, the backward pass of flash attention is much slower than plain matmuls.
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        hidden, pooled = denoiser.encode_prompts(tokenise(tokenizer, texts))
        added = {
            "text_embeds": pooled * kept[:, None],
            "time_ids": time_ids(rng, batch.size, count),
        }
        predicted = denoiser(
            noisy,
            times,
            hidden * kept[:, None, None],
            added,
            batch.hints,
            torch.from_numpy(scales).float(),
        )
    return {"mse": mse_loss(predicted.float(), noise)}


def tokenise(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """Return padded, truncated token ids (n, 77), int64 on the CPU."""
    encoded = tokenizer(
        list(texts), padding="max_length", truncation=True, max_length=77, return_tensors="pt"
    )
    ids: Tensor = encoded.input_ids
    return ids
