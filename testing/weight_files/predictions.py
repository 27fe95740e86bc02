"""Predictions of a UNet on fixed random inputs."""

from __future__ import annotations

from typing import Any

import torch


def predict(unet: torch.nn.Module) -> torch.Tensor:
    """Two rows of noise predictions, without LoRAs of ours being activated."""
    generator = torch.Generator().manual_seed(3)
    weight = next(unet.parameters())

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(weight)

    config: Any = unet.config
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    with torch.inference_mode():
        result: torch.Tensor = unet(
            noise(2, 4, 16, 16),
            torch.tensor([500.0, 20.0]),
            noise(2, 77, config.cross_attention_dim),
            added_cond_kwargs={"text_embeds": noise(2, pooled), "time_ids": noise(2, 6)},
            return_dict=False,
        )[0]
    return result
