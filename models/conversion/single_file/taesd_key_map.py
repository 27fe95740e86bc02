"""Names of tiny autoencoders as their author publishes them (github.com/madebyollin/taesd).

Encoder and decoder are sequences of layers in files of their own. Only the decoder is read, because
nothing encodes with it. diffusers' AutoencoderTiny has the same layers without the first, which
only clamps.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from models.conversion.safetensors_io import Shape
from models.conversion.sdxl_key_map import KeyMapping

_LAYER = re.compile(r"(?:decoder\.layers\.)?(\d+)\.(conv\.0\.)?weight")


def derive_tiny_config(shapes: Mapping[str, Shape]) -> dict[str, Any] | None:
    """Return the settings that a decoder's tensors determine; None if they are no decoder's.

    Args:
        shapes: shapes of the tensors by name without prefix, in diffusers' or the author's names.
    """
    found = {}
    for name, shape in shapes.items():
        if (match := _LAYER.fullmatch(name)) is not None:
            found[int(match[1])] = (bool(match[2]), shape)
    layers = [found[number] for number in sorted(found)]
    if not layers or any(len(shape) != 4 for _, shape in layers):
        return None
    # A convolution, then per level its blocks and a convolution.
    (is_block, (width, latent, *_)), *rest = layers
    blocks, here = [], 0
    for is_block, _ in rest:
        here += is_block
        if not is_block:
            blocks.append(here)
            here = 0
    if not blocks:
        return None
    return {
        "decoder_block_out_channels": [width] * len(blocks),
        "num_decoder_blocks": blocks,
        "latent_channels": latent,
        "out_channels": rest[-1][1][0],
    }


def taesd_mappings(config: Mapping[str, Any]) -> list[KeyMapping]:
    """Return the mappings of all tensors of a decoder.

    Args:
        config: configuration of diffusers' AutoencoderTiny.
    """
    return [
        KeyMapping(f"{number + 1}.{name}", f"decoder.layers.{number}.{name}", shape, (shape,))
        for number, name, shape in _tensors(config)
    ]


def _tensors(config: Mapping[str, Any]) -> Iterator[tuple[int, str, Shape]]:
    """Yield the layer's number in diffusers' sequence, the tensor's name in it, and its shape."""
    widths, blocks = config["decoder_block_out_channels"], config["num_decoder_blocks"]
    yield from _convolution(0, "", widths[0], config["latent_channels"])
    # An activation follows the first convolution.
    number = 2
    for level, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        for _ in range(count):
            for part in (0, 2, 4):
                yield from _convolution(number, f"conv.{part}.", width, width)
            number += 1
        is_last = level == len(widths) - 1
        # The levels before the last are upsampled, and their convolutions have no bias.
        number += not is_last
        outputs = config["out_channels"] if is_last else width
        yield from _convolution(number, "", outputs, width, has_bias=is_last)
        number += 1


def _convolution(
    number: int, name: str, outputs: int, inputs: int, has_bias: bool = True
) -> Iterator[tuple[int, str, Shape]]:
    yield number, f"{name}weight", (outputs, inputs, 3, 3)
    if has_bias:
        yield number, f"{name}bias", (outputs,)
