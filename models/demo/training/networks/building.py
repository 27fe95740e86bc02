"""Untrained demo networks: SDXL's classes and wiring, hundreds of times smaller."""

from __future__ import annotations

from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

SAMPLE_SIZE = 32
"""Latents per side at the native size of 256 pixels."""
TEXT_WIDTHS = (64, 96)
POOLED_WIDTH = 96
TIME_ID_WIDTH = 32


def make_autoencoder() -> AutoencoderKL:
    """Return a network between images (n, 3, h, w) in [-1, 1] and latents (n, 4, h / 8, w / 8)."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        # With one channel per group, the last norm would remove the image's mean colour.
        norm_num_groups=4,
        sample_size=8 * SAMPLE_SIZE,
        force_upcast=False,
    )


def make_unet() -> UNet2DConditionModel:
    """Return a UNet with SDXL's three levels, micro-conditioned on size and crop.

    As in SDXL (arXiv:2307.01952), the first level has no attention.
    """
    return UNet2DConditionModel(
        sample_size=SAMPLE_SIZE,
        block_out_channels=(48, 80, 112),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        transformer_layers_per_block=1,
        # diffusers interprets this as the number of heads, as in SDXL's configuration.
        attention_head_dim=[3, 5, 7],
        cross_attention_dim=sum(TEXT_WIDTHS),
        norm_num_groups=8,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_ID_WIDTH,
        projection_class_embeddings_input_dim=POOLED_WIDTH + 6 * TIME_ID_WIDTH,
    )


def make_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    """Return a copy of the UNet's encoder with depth input (n, 3, h, w) in [0, 1].

    The method is ControlNet's (arXiv:2302.05543).
    """
    return ControlNetModel.from_unet(
        unet, conditioning_channels=3, conditioning_embedding_out_channels=(16, 32, 64, 96)
    )


def _make_text_config(width: int, vocabulary: int, begin: int, end: int) -> CLIPTextConfig:
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
    """Return two CLIP text models; the second one's projection gives the pooled prompt.

    Args:
        vocabulary: Number of tokens.
        begin: Id of the begin token.
        end: Id of the end token, also used for padding.
    """
    first, second = (_make_text_config(width, vocabulary, begin, end) for width in TEXT_WIDTHS)
    return CLIPTextModel(first), CLIPTextModelWithProjection(second)
