"""The demo networks, untrained: SDXL's classes and wiring, hundreds of times smaller."""

from __future__ import annotations

from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

SAMPLE_SIZE = 32
"""Latents per side at the native size: 256 pixels at factor 8."""
TEXT_WIDTHS = (64, 96)
POOLED_WIDTH = 96
TIME_ID_WIDTH = 32


def make_autoencoder() -> AutoencoderKL:
    """Pictures (n, 3, h, w) in [-1, 1] to latents (n, 4, h / 8, w / 8) and back."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        # With one channel per group the last norm would erase every picture's mean colour.
        norm_num_groups=4,
        sample_size=8 * SAMPLE_SIZE,
        force_upcast=False,
    )


def make_unet() -> UNet2DConditionModel:
    """SDXL's three levels, the first without attention; micro-conditioned on size and crop."""
    return UNet2DConditionModel(
        sample_size=SAMPLE_SIZE,
        block_out_channels=(48, 80, 112),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        transformer_layers_per_block=1,
        # diffusers reads this as the number of heads, as in SDXL's own configuration.
        attention_head_dim=[3, 5, 7],
        cross_attention_dim=sum(TEXT_WIDTHS),
        norm_num_groups=8,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_ID_WIDTH,
        projection_class_embeddings_input_dim=POOLED_WIDTH + 6 * TIME_ID_WIDTH,
    )


def make_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    """A copy of the UNet's encoder that reads a depth map (n, 3, h, w) in [0, 1]."""
    return ControlNetModel.from_unet(
        unet, conditioning_channels=3, conditioning_embedding_out_channels=(16, 32, 64, 96)
    )


def _text_config(width: int, vocabulary: int, begin: int, end: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=width // 16,
        max_position_embeddings=77,
        hidden_act="quick_gelu",
        projection_dim=POOLED_WIDTH,
        bos_token_id=begin,
        eos_token_id=end,
        pad_token_id=end,
    )


def make_text_encoders(
    vocabulary: int, begin: int, end: int
) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """Two CLIP text models; the second one's projection at the end token is the pooled prompt."""
    first, second = (_text_config(width, vocabulary, begin, end) for width in TEXT_WIDTHS)
    return CLIPTextModel(first), CLIPTextModelWithProjection(second)
