"""The second stage: UNet, ControlNet and both text encoders, trained together from nothing."""

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

from models.demo.fields import Size
from models.demo.latents import Batch
from models.demo.networks import make_controlnet, make_text_encoders, make_unet
from models.demo.prompts import DROPPED
from models.demo.training import Losses

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

SDXL's schedule never quite reaches pure noise. Without this the networks learn to read a
picture's mean colour off that remainder, and a pure noise start then misleads them about the era.
"""
CONTROL_DROPPED = 0.17
CONTROL_SCALES = (0.6, 1.2)


class Denoiser(nn.Module):
    """Everything that learns in this stage, in one module with one optimiser."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text_encoder, self.text_encoder_2 = make_text_encoders(
            len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id
        )
        self.unet = make_unet()
        self.controlnet = make_controlnet(self.unet)

    @torch.no_grad()
    def load(self, folder: Path, tokenizer: CLIPTokenizer) -> None:
        """Take over a set's weights; a token that its vocabulary has keeps its embedding."""
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
        """Token ids (n, 77) to embeddings (n, 77, 160) and pooled prompts (n, 96), as SDXL does:
        the last layer but one of both encoders, the second one's projection at the end token.
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
        """Predict the noise in `noisy` (n, 4, h, w); `scales` (n,) weigh the control per sample."""
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
    """SDXL's micro-conditioning (original, crop corner, target size) as float32 (count, 6).

    Half of the samples claim a random size: a claim must never spoil a picture of a size that
    training cannot afford.
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
    """Mean squared error of the predicted noise at uniformly drawn times.

    Half of the dropped prompts are zeros, as the pipeline's missing negative prompt, and half
    are the encoded empty text.
    """
    count = len(batch.prompts)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    clean = batch.latents * scaling_factor
    noise = torch.randn(clean.shape, generator=generator)
    noise = noise + NOISE_OFFSET * torch.randn((count, 4, 1, 1), generator=generator)
    times = torch.from_numpy(rng.integers(0, 1000, count))
    noisy = scheduler.add_noise(clean, noise, times)
    fate = rng.random(count)
    texts = [
        "" if drawn < DROPPED / 2 else text for text, drawn in zip(batch.prompts, fate, strict=True)
    ]
    kept = torch.from_numpy(~((fate >= DROPPED / 2) & (fate < DROPPED))).float()
    scales = rng.uniform(*CONTROL_SCALES, count) * (rng.random(count) >= CONTROL_DROPPED)
    # The CPU's flash attention spends most of a step in its backward pass; plain products do not.
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
    """Texts to padded, cut token ids (n, 77), int64."""
    encoded = tokenizer(
        list(texts), padding="max_length", truncation=True, max_length=77, return_tensors="pt"
    )
    ids: Tensor = encoded.input_ids
    return ids
