"""Description of files without the expected component: what they are, and where they belong."""

from __future__ import annotations

from collections.abc import Mapping

from models.conversion.config import UNET_TEXT_WIDTHS
from models.conversion.detect_kind import detect_non_sdxl
from models.conversion.safetensors_io import Shape, read_metadata
from models.conversion.sdxl_key_map import PREFIXES
from models.conversion.single_file.layouts import LAYOUTS
from models.conversion.single_file.taesd_key_map import derive_tiny_config
from models.conversion.tensor_copy import TensorSlice

NAMES = {
    "unet": "a UNet",
    "vae": "an autoencoder",
    "text_encoder": "the first text encoder (CLIP ViT-L)",
    "text_encoder_2": "the second text encoder (OpenCLIP ViT-bigG)",
    "tiny_decoder": "a tiny decoder",
}
_TEXT_WIDTHS = {768: "text_encoder", 1280: "text_encoder_2"}
_SD2_TEXT_WIDTH = 1024
_TOKENS = "token_embedding.weight"
_CROSS_ATTENTION = "attn2.to_k.weight"
_UNET_INPUTS = ("input_blocks.0.0.weight", "conv_in.weight")
_UNET_SIZES = ("label_emb.0.0.weight", "add_embedding.linear_1.weight")
_REFINER = (1280, 2560)
"""Width of the text and of the pooled text with sizes that the refiner's UNet reads."""
_INPUTS = {8: "an editing model", 9: "an inpainting model"}
_LATENTS = {16: "Flux, Stable Diffusion 3 or a later model", 32: "Flux 2", 128: "LTX Video"}
_ARCHITECTURE = "modelspec.architecture"


def describe_absence(kind: str, weights: Mapping[str, TensorSlice], is_checkpoint: bool) -> str:
    """Return what a file without a component is, as the rest of a sentence about the file.

    Args:
        kind: kind of the wanted component.
        weights: tensors of the file.
        is_checkpoint: whether the file was given as a whole checkpoint.
    """
    other = detect_non_sdxl(weights)
    if is_checkpoint:
        if other is not None:
            return f"not an SDXL checkpoint but {other}"
        return f"has no {kind} (no {PREFIXES[kind]}*); name a source of its own as {kind} ="
    found = [each for each in NAMES if each != kind and _has(each, weights)]
    own = _TEXT_WIDTHS.get(_text_width({name: each.shape for name, each in weights.items()}))
    if own is not None:
        # Both text encoders have the same names, but not the same width.
        found = [each for each in found if not each.startswith("text_encoder") or each == own]
    if found and (other is None or "alone" in other):
        listed = " and ".join(f"{NAMES[each]}: give it as {each} =" for each in found)
        return f"has no {kind} but {listed}"
    if other is not None:
        return f"not {NAMES[kind]} but {other}"
    return f"has no {kind}: no tensor has one of its names"


def describe_foreign(kind: str, weights: Mapping[str, TensorSlice]) -> str | None:
    """Return what an autoencoder is for if its shapes are SDXL's but its file is another model's.

    Args:
        kind: kind of the component; the shapes of all others tell.
        weights: tensors of the file.
    """
    if kind not in {"vae", "tiny_decoder"}:
        return None
    other = detect_non_sdxl(weights)
    if other is not None and other.endswith(" checkpoint"):
        return f"not an SDXL checkpoint but {other}, whose autoencoder has other latents"
    architecture = read_metadata(next(iter(weights.values())).path).get(_ARCHITECTURE, "")
    is_named = architecture.startswith(("stable-diffusion", "flux", "Flux"))
    if is_named and not architecture.startswith("stable-diffusion-xl"):
        return f"an autoencoder of {architecture} ({_ARCHITECTURE}); give one of SDXL"
    return None


def describe_mismatch(kind: str, shapes: Mapping[str, Shape]) -> str | None:
    """Return what a component is that does not have SDXL's shapes, or None if undetermined.

    Args:
        kind: kind of the component.
        shapes: shapes of its tensors by name, without prefix.
    """
    if kind == "unet":
        return _describe_unet(shapes)
    if kind == "vae":
        return _describe_latents("autoencoder", _channels(shapes.get("decoder.conv_in.weight")))
    if kind == "tiny_decoder":
        return _describe_tiny(shapes)
    width = _text_width(shapes)
    other = _TEXT_WIDTHS.get(width, kind)
    if other != kind:
        return f"{NAMES[other]}: give it as {other} ="
    if width == _SD2_TEXT_WIDTH:
        return "the text encoder of Stable Diffusion 2; give one of SDXL"
    return None


def _has(kind: str, weights: Mapping[str, TensorSlice]) -> bool:
    """Return whether a file has a tensor that marks a component."""
    return any(
        name.startswith(prefix) and layout.rename(name.removeprefix(prefix)) == layout.mark
        for layout in LAYOUTS[kind]
        for prefix in layout.prefixes
        for name in weights
    )


def _describe_unet(shapes: Mapping[str, Shape]) -> str | None:
    channels = next((_channels(shapes[name]) for name in _UNET_INPUTS if name in shapes), 0)
    if channels in _INPUTS:
        return f"{_INPUTS[channels]} (its UNet takes {channels} channels); give a UNet of SDXL"
    added = next((_channels(shapes[name]) for name in _UNET_SIZES if name in shapes), 0)
    texts = {
        _channels(shape) for name, shape in shapes.items() if name.endswith("attn2.to_k.weight")
    }
    if len(texts) != 1:
        return None
    text = texts.pop()
    if (text, added) == _REFINER:
        return "the UNet of the SDXL refiner, which cannot be served; give the base model's"
    if not added and text in UNET_TEXT_WIDTHS:
        model = UNET_TEXT_WIDTHS[text]
        return f"a UNet of {model} (it reads text of width {text}); give a UNet of SDXL"
    return None


def _describe_latents(what: str, channels: int) -> str | None:
    if channels not in _LATENTS:
        return None
    return f"the {what} of {_LATENTS[channels]} ({channels} latent channels); give one of SDXL"


def _describe_tiny(shapes: Mapping[str, Shape]) -> str | None:
    config = derive_tiny_config(shapes)
    if config is None:
        return None
    if config["latent_channels"] == 3 and config["out_channels"] != 3:
        return "the encoder of a tiny autoencoder; give its decoder, taesdxl_decoder.safetensors"
    return _describe_latents("tiny decoder", config["latent_channels"])


def _text_width(shapes: Mapping[str, Shape]) -> int:
    return next((_channels(each) for name, each in shapes.items() if name.endswith(_TOKENS)), 0)


def _channels(shape: Shape | None) -> int:
    """Return the input channels of a matrix or kernel, 0 for anything else."""
    return shape[1] if shape is not None and len(shape) > 1 else 0
