"""Tensor names of SDXL's components as tools write them: prefixes, and one mapping per spelling.

The training code's names are those of single-file checkpoints ("ldm"). diffusers, transformers and
OpenCLIP have names of their own. ComfyUI saves parts of a checkpoint with or without its prefixes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from models.conversion.network_shapes import network_shapes
from models.conversion.safetensors_io import Shape
from models.conversion.sdxl_key_map import KeyMapping, key_mappings, open_clip_mappings
from models.conversion.single_file.taesd_key_map import taesd_mappings

Config = Mapping[str, Any]
_PROJECTION = "text_projection"
_LEGACY_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@dataclass(frozen=True, slots=True)
class Layout:
    """One spelling of a component's names.

    `prefixes` are tried in order. `mark` is the name of a tensor, without prefix, that only this
    spelling of this component has. `mappings` gives the tensors of a configuration, without prefix.
    `rename` turns older variants of a name into the one that `mappings` has.
    """

    prefixes: tuple[str, ...]
    mark: str
    mappings: Callable[[Config], list[KeyMapping]]
    rename: Callable[[str], str] = str


def plain_name(name: str) -> str:
    """Return diffusers' name of a tensor of an autoencoder from its older releases."""
    for old, new in _LEGACY_ATTENTION.items():
        name = re.sub(rf"(\.attentions\.\d+\.){old}\.", rf"\g<1>{new}.", name)
    return name


def text_model_name(name: str) -> str:
    """Return transformers' name of a tensor whose exporter left out the prefix of the model."""
    bare = name.startswith(("embeddings.", "encoder.", "final_layer_norm."))
    return f"text_model.{name}" if bare else name


def diffusers_mappings(kind: str, config: Config) -> list[KeyMapping]:
    """Return the mappings of a component that already has diffusers' names.

    Args:
        kind: `unet`, `vae` or `tiny_decoder`.
        config: canonical configuration.

    Raises:
        WeightsError: no network can be built from the configuration.
    """
    shapes = network_shapes(kind, config)
    return [KeyMapping(name, name, shape, _spellings(shape)) for name, shape in shapes.items()]


def transformers_mappings(kind: str, config: Config) -> list[KeyMapping]:
    """Return the mappings of a text encoder that already has transformers' names.

    Args:
        kind: `text_encoder` or `text_encoder_2`.
        config: canonical configuration.
    """
    found = key_mappings("text_encoder", config, "")
    if kind == "text_encoder_2":
        shape = (config["projection_dim"], config["hidden_size"])
        name = f"{_PROJECTION}.weight"
        found.append(KeyMapping(name, name, shape, (shape,)))
    return found


def with_projection_as_named(
    mappings: Iterable[KeyMapping], names: Iterable[str]
) -> list[KeyMapping]:
    """Return mappings that take the text projection from the spelling that the file has.

    A layer, `text_projection.weight`, has the shape (outputs, inputs). OpenCLIP and ComfyUI have a
    parameter `text_projection` instead, which is its transpose.
    """
    known = set(names)
    adapted = []
    for mapping in mappings:
        if mapping.target == f"{_PROJECTION}.weight":
            is_layer = mapping.target in known or _PROJECTION not in known
            source = mapping.target if is_layer else _PROJECTION
            shape = mapping.shape if is_layer else mapping.shape[::-1]
            mapping = KeyMapping(
                source, mapping.target, mapping.shape, (shape,), transposed=not is_layer
            )
        adapted.append(mapping)
    return adapted


def _spellings(shape: Shape) -> tuple[Shape, ...]:
    """Return a shape, and for a matrix that of the same matrix as a 1x1 convolution."""
    return (shape, (*shape, 1, 1)) if len(shape) == 2 else (shape,)


def _text_layouts(kind: str, number: int, comfy: str) -> tuple[Layout, ...]:
    """Return the spellings of a text encoder.

    Args:
        kind: kind of the component.
        number: number of the embedder in a checkpoint.
        comfy: ComfyUI's name of the text encoder.
    """
    parents = (f"conditioner.embedders.{number}.", f"{kind}.", f"text_encoders.{comfy}.",
               f"{comfy}.", "model.", "text.", "")  # fmt: skip
    own = tuple(parent + part for parent in parents for part in ("transformer.", "model.", ""))

    def open_clip(config: Config) -> list[KeyMapping]:
        if kind == "text_encoder_2":
            return key_mappings(kind, config, "")
        return open_clip_mappings(config)

    return (
        Layout(own, "text_model.embeddings.token_embedding.weight",
               lambda config: transformers_mappings(kind, config), text_model_name),
        Layout(own, "transformer.resblocks.0.ln_1.weight", open_clip),
    )  # fmt: skip


LAYOUTS: Mapping[str, tuple[Layout, ...]] = {
    "unet": (
        Layout(("model.diffusion_model.", "diffusion_model.", "unet.", "model.", "module.", ""),
               "output_blocks.0.0.in_layers.0.weight",
               lambda config: key_mappings("unet", config, "")),
        Layout(("unet.", "model.diffusion_model.", "diffusion_model.", "model.", "module.", ""),
               "up_blocks.0.resnets.0.norm1.weight",
               lambda config: diffusers_mappings("unet", config)),
    ),
    "vae": (
        Layout(("first_stage_model.", "vae.", "model.", ""), "decoder.mid.block_1.norm1.weight",
               lambda config: key_mappings("vae", config, "")),
        Layout(("first_stage_model.", "vae.", "model.", ""),
               "decoder.mid_block.resnets.0.norm1.weight",
               lambda config: diffusers_mappings("vae", config), plain_name),
    ),
    "text_encoder": _text_layouts("text_encoder", 0, "clip_l"),
    "text_encoder_2": _text_layouts("text_encoder_2", 1, "clip_g"),
    "tiny_decoder": (
        Layout(("vae.", ""), "decoder.layers.0.weight",
               lambda config: diffusers_mappings("tiny_decoder", config)),
        Layout(("taesd_decoder.", "taesdxl_decoder.", "decoder.", ""), "3.conv.0.weight",
               taesd_mappings),
    ),
}  # fmt: skip
"""Spellings of each component, those of whole checkpoints first."""
