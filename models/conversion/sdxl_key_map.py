"""Map from the tensors of diffusers' SDXL components to those of a single-file checkpoint.

Single files keep the names of SDXL's training code (arXiv:2307.01952): consecutively numbered
blocks, a text encoder in OpenCLIP's layout, and the autoencoder's attention as 1x1 convolutions.
The component's configuration determines every tensor's name and shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from models.conversion.safetensors_io import Shape

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class KeyMapping:
    """One tensor of a component: its name, its shape, and its location in the checkpoint.

    Its rows start at row `first_row` of the checkpoint's tensor `source`. `source_shapes` lists
    the accepted shapes of that tensor. `transposed` swaps its two dimensions.
    """

    source: str
    target: str
    shape: Shape
    source_shapes: tuple[Shape, ...]
    first_row: int = 0
    transposed: bool = False


PREFIXES = {
    "text_encoder": "conditioner.embedders.0.transformer.",
    "text_encoder_2": "conditioner.embedders.1.model.",
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
}


def key_mappings(part: str, config: Config, prefix: str | None = None) -> list[KeyMapping]:
    """Return the mappings of all tensors of a component.

    Args:
        part: Kind of the component, a key of PREFIXES.
        config: Its configuration.
        prefix: Start of the names in the file; None for that of a whole checkpoint.
    """
    start = PREFIXES[part] if prefix is None else prefix
    return [replace(move, source=start + move.source) for move in _RULES[part](config)]


def open_clip_mappings(config: Config) -> list[KeyMapping]:
    """Return the mappings of a text encoder in OpenCLIP's names, without the projection."""
    return list(_open_clip(config))


def _layer(source: str, target: str, shape: Shape, bias: bool = True) -> Iterator[KeyMapping]:
    """Map a layer's weight, and its bias with one element per row of the weight."""
    yield KeyMapping(f"{source}.weight", f"{target}.weight", shape, (shape,))
    if bias:
        yield KeyMapping(f"{source}.bias", f"{target}.bias", shape[:1], (shape[:1],))


def _unet(config: Config) -> Iterator[KeyMapping]:
    widths = config["block_out_channels"]
    layers = config["layers_per_block"]
    blocks = config["transformer_layers_per_block"]
    if isinstance(blocks, int):
        blocks = [blocks] * len(widths)
    depths = [
        depth if kind.startswith("CrossAttn") else 0
        for depth, kind in zip(blocks, config["down_block_types"], strict=True)
    ]
    context = config["cross_attention_dim"]
    time = 4 * widths[0]
    added = config["projection_class_embeddings_input_dim"]
    for source, target, width in (
        ("time_embed", "time_embedding", widths[0]),
        ("label_emb.0", "add_embedding", added),
    ):
        yield from _layer(f"{source}.0", f"{target}.linear_1", (time, width))
        yield from _layer(f"{source}.2", f"{target}.linear_2", (time, time))
    if (guidance := config.get("time_cond_proj_dim")) is not None:
        # The guidance embedding of distilled models (arXiv:2310.04378).
        source, target = "time_embed.cond_proj", "time_embedding.cond_proj"
        yield from _layer(source, target, (widths[0], guidance), bias=False)
    yield from _layer("input_blocks.0.0", "conv_in", (widths[0], config["in_channels"], 3, 3))

    skips, channels, number = [widths[0]], widths[0], 1
    for level, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        there = f"down_blocks.{level}"
        for layer in range(layers):
            here = f"input_blocks.{number}"
            yield from _resnet(f"{here}.0", f"{there}.resnets.{layer}", channels, width, time)
            if depth:
                target = f"{there}.attentions.{layer}"
                yield from _transformer(f"{here}.1", target, width, depth, context)
            channels, number = width, number + 1
            skips.append(width)
        if level < len(widths) - 1:
            shape = (width, width, 3, 3)
            yield from _layer(f"input_blocks.{number}.0.op", f"{there}.downsamplers.0.conv", shape)
            number += 1
            skips.append(width)

    yield from _resnet("middle_block.0", "mid_block.resnets.0", channels, channels, time)
    middle = "mid_block.attentions.0"
    yield from _transformer("middle_block.1", middle, channels, blocks[-1], context)
    yield from _resnet("middle_block.2", "mid_block.resnets.1", channels, channels, time)

    number = 0
    for level, (width, depth) in enumerate(zip(widths[::-1], depths[::-1], strict=True)):
        there = f"up_blocks.{level}"
        for layer in range(layers + 1):
            here, entering = f"output_blocks.{number}", channels + skips.pop()
            yield from _resnet(f"{here}.0", f"{there}.resnets.{layer}", entering, width, time)
            if depth:
                target = f"{there}.attentions.{layer}"
                yield from _transformer(f"{here}.1", target, width, depth, context)
            channels, number = width, number + 1
        if level < len(widths) - 1:
            source = f"output_blocks.{number - 1}.{2 if depth else 1}.conv"
            yield from _layer(source, f"{there}.upsamplers.0.conv", (width, width, 3, 3))
    yield from _layer("out.0", "conv_norm_out", (widths[0],))
    yield from _layer("out.2", "conv_out", (config["out_channels"], widths[0], 3, 3))


def _resnet(
    source: str, target: str, entering: int, leaving: int, time: int
) -> Iterator[KeyMapping]:
    yield from _layer(f"{source}.in_layers.0", f"{target}.norm1", (entering,))
    yield from _layer(f"{source}.in_layers.2", f"{target}.conv1", (leaving, entering, 3, 3))
    yield from _layer(f"{source}.emb_layers.1", f"{target}.time_emb_proj", (leaving, time))
    yield from _layer(f"{source}.out_layers.0", f"{target}.norm2", (leaving,))
    yield from _layer(f"{source}.out_layers.3", f"{target}.conv2", (leaving, leaving, 3, 3))
    if entering != leaving:
        shape = (leaving, entering, 1, 1)
        yield from _layer(f"{source}.skip_connection", f"{target}.conv_shortcut", shape)


def _transformer(
    source: str, target: str, width: int, depth: int, context: int
) -> Iterator[KeyMapping]:
    """Map a spatial transformer; both layouts use the same names inside it."""
    square = (width, width)

    def same(name: str, shape: Shape, bias: bool = True) -> Iterator[KeyMapping]:
        yield from _layer(f"{source}.{name}", f"{target}.{name}", shape, bias)

    yield from same("norm", (width,))
    yield from same("proj_in", square)
    yield from same("proj_out", square)
    for number in range(depth):
        block = f"transformer_blocks.{number}"
        for attention, keys in (("attn1", width), ("attn2", context)):
            yield from same(f"{block}.{attention}.to_q", square, bias=False)
            yield from same(f"{block}.{attention}.to_k", (width, keys), bias=False)
            yield from same(f"{block}.{attention}.to_v", (width, keys), bias=False)
            yield from same(f"{block}.{attention}.to_out.0", square)
        # GEGLU: twice the inner width, because one half gates the other.
        yield from same(f"{block}.ff.net.0.proj", (8 * width, width))
        yield from same(f"{block}.ff.net.2", (width, 4 * width))
        for norm in ("norm1", "norm2", "norm3"):
            yield from same(f"{block}.{norm}", (width,))


def _vae(config: Config) -> Iterator[KeyMapping]:
    widths = config["block_out_channels"]
    layers = config["layers_per_block"]
    latent, last = config["latent_channels"], len(widths) - 1
    yield from _layer("quant_conv", "quant_conv", (2 * latent, 2 * latent, 1, 1))
    yield from _layer("post_quant_conv", "post_quant_conv", (latent, latent, 1, 1))

    yield from _layer(
        "encoder.conv_in", "encoder.conv_in", (widths[0], config["in_channels"], 3, 3)
    )
    channels = widths[0]
    for level, width in enumerate(widths):
        here, there = f"encoder.down.{level}", f"encoder.down_blocks.{level}"
        for layer in range(layers):
            source, target = f"{here}.block.{layer}", f"{there}.resnets.{layer}"
            yield from _vae_resnet(source, target, channels, width)
            channels = width
        if level < last:
            shape = (width, width, 3, 3)
            yield from _layer(f"{here}.downsample.conv", f"{there}.downsamplers.0.conv", shape)
    yield from _vae_ends("encoder", channels, (2 * latent, channels, 3, 3))

    yield from _layer("decoder.conv_in", "decoder.conv_in", (channels, latent, 3, 3))
    for level, width in enumerate(widths[::-1]):
        # The checkpoint numbers the decoder's levels from the finest, diffusers from the coarsest.
        here, there = f"decoder.up.{last - level}", f"decoder.up_blocks.{level}"
        for layer in range(layers + 1):
            source, target = f"{here}.block.{layer}", f"{there}.resnets.{layer}"
            yield from _vae_resnet(source, target, channels, width)
            channels = width
        if level < last:
            shape = (width, width, 3, 3)
            yield from _layer(f"{here}.upsample.conv", f"{there}.upsamplers.0.conv", shape)
    yield from _vae_ends("decoder", widths[-1], (config["out_channels"], widths[0], 3, 3))


def _vae_ends(half: str, middle: int, last: Shape) -> Iterator[KeyMapping]:
    """Map the middle block of the encoder or decoder, and its last two layers."""
    here, there = f"{half}.mid", f"{half}.mid_block"
    yield from _vae_resnet(f"{here}.block_1", f"{there}.resnets.0", middle, middle)
    yield from _vae_resnet(f"{here}.block_2", f"{there}.resnets.1", middle, middle)
    attention = f"{there}.attentions.0"
    yield from _layer(f"{here}.attn_1.norm", f"{attention}.group_norm", (middle,))
    square = (middle, middle)
    for old, new in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")):
        weight, bias = _layer(f"{here}.attn_1.{old}", f"{attention}.{new}", square)
        yield replace(weight, source_shapes=((*square, 1, 1), square))
        yield bias
    yield from _layer(f"{half}.norm_out", f"{half}.conv_norm_out", last[1:2])
    yield from _layer(f"{half}.conv_out", f"{half}.conv_out", last)


def _vae_resnet(source: str, target: str, entering: int, leaving: int) -> Iterator[KeyMapping]:
    yield from _layer(f"{source}.norm1", f"{target}.norm1", (entering,))
    yield from _layer(f"{source}.conv1", f"{target}.conv1", (leaving, entering, 3, 3))
    yield from _layer(f"{source}.norm2", f"{target}.norm2", (leaving,))
    yield from _layer(f"{source}.conv2", f"{target}.conv2", (leaving, leaving, 3, 3))
    if entering != leaving:
        shape = (leaving, entering, 1, 1)
        yield from _layer(f"{source}.nin_shortcut", f"{target}.conv_shortcut", shape)


def _text_encoder(config: Config) -> Iterator[KeyMapping]:
    """Map the first text encoder; it has the names of transformers with another prefix."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    for name, rows in (("token", "vocab_size"), ("position", "max_position_embeddings")):
        name = f"text_model.embeddings.{name}_embedding"
        yield from _layer(name, name, (config[rows], width), bias=False)
    for number in range(config["num_hidden_layers"]):
        layer = f"text_model.encoder.layers.{number}"
        for name in ("layer_norm1", "layer_norm2"):
            yield from _layer(f"{layer}.{name}", f"{layer}.{name}", (width,))
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            name = f"{layer}.self_attn.{name}"
            yield from _layer(name, name, (width, width))
        yield from _layer(f"{layer}.mlp.fc1", f"{layer}.mlp.fc1", (inner, width))
        yield from _layer(f"{layer}.mlp.fc2", f"{layer}.mlp.fc2", (width, inner))
    name = "text_model.final_layer_norm"
    yield from _layer(name, name, (width,))


def _text_encoder_2(config: Config) -> Iterator[KeyMapping]:
    """Map the second text encoder, which has OpenCLIP's names."""
    yield from _open_clip(config)
    shape = (config["projection_dim"], config["hidden_size"])
    yield KeyMapping(
        "text_projection", "text_projection.weight", shape, (shape[::-1],), transposed=True
    )


def _open_clip(config: Config) -> Iterator[KeyMapping]:
    """Map OpenCLIP's names; its queries, keys and values are stacked in one matrix."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    embeddings = "text_model.embeddings"
    tokens = (config["vocab_size"], width)
    yield from _layer("token_embedding", f"{embeddings}.token_embedding", tokens, bias=False)
    positions = (config["max_position_embeddings"], width)
    target = f"{embeddings}.position_embedding.weight"
    yield KeyMapping("positional_embedding", target, positions, (positions,))
    for number in range(config["num_hidden_layers"]):
        here, there = f"transformer.resblocks.{number}", f"text_model.encoder.layers.{number}"
        yield from _layer(f"{here}.ln_1", f"{there}.layer_norm1", (width,))
        yield from _layer(f"{here}.ln_2", f"{there}.layer_norm2", (width,))
        for row, name in enumerate(("q_proj", "k_proj", "v_proj")):
            for kind, shape in (("weight", (width, width)), ("bias", (width,))):
                yield KeyMapping(
                    f"{here}.attn.in_proj_{kind}",
                    f"{there}.self_attn.{name}.{kind}",
                    shape,
                    ((3 * width, *shape[1:]),),
                    first_row=row * width,
                )
        square = (width, width)
        yield from _layer(f"{here}.attn.out_proj", f"{there}.self_attn.out_proj", square)
        yield from _layer(f"{here}.mlp.c_fc", f"{there}.mlp.fc1", (inner, width))
        yield from _layer(f"{here}.mlp.c_proj", f"{there}.mlp.fc2", (width, inner))
    yield from _layer("ln_final", "text_model.final_layer_norm", (width,))


_RULES: dict[str, Callable[[Config], Iterator[KeyMapping]]] = {
    "text_encoder": _text_encoder,
    "text_encoder_2": _text_encoder_2,
    "unet": _unet,
    "vae": _vae,
}
