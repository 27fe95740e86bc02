"""LoRA files (arXiv:2106.09685) in diffusers' or kohya's format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders import StableDiffusionXLLoraLoaderMixin
from diffusers.utils import convert_unet_state_dict_to_peft
from diffusers.utils.state_dict_utils import (
    DIFFUSERS_OLD_TO_PEFT,
    DIFFUSERS_TO_PEFT,
    convert_state_dict,
)
from safetensors.torch import load_file
from torch import nn

from runners.device import Device
from runners.errors import AdapterError
from runners.networks.weight_upload import WeightUploader

_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True, slots=True, eq=False)
class LoraLayer:
    """Low-rank factors of one layer in the network's dtype, with the alpha folded into `up`.

    Shapes: `down` [r, in] and `up` [out, r] for a linear layer, `down` [r, in, k, k] and `up`
    [out, r, 1, 1] for a convolution.
    """

    down: torch.Tensor
    up: torch.Tensor

    @property
    def bytes(self) -> int:
        """Bytes of both factors."""
        return self.down.nbytes + self.up.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class LoraFile:
    """Layers of a LoRA: the UNet's by module name, the text encoders' by encoder and module name.

    `text` has one mapping for each text encoder of the model, and `ignored` the names of other
    networks in the file.
    """

    unet: Mapping[str, LoraLayer]
    text: tuple[Mapping[str, LoraLayer], ...]
    ignored: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Bytes of all factors."""
        return sum(layer.bytes for part in (self.unet, *self.text) for layer in part.values())


def read_lora(
    path: Path,
    unet: nn.Module,
    text_encoders: Sequence[nn.Module] = (),
    uploader: WeightUploader | None = None,
) -> LoraFile:
    """Read a LoRA file into the networks' dtypes and onto their device.

    Args:
        path: the file.
        unet: the UNet.
        text_encoders: the text encoders; parts of a file for others are left out.
        uploader: copier of weights to the networks' device; a new one if None.

    Raises:
        AdapterError: the file's layers do not match a network in name or shape.
    """
    config: Any = unet.config
    state, alphas = StableDiffusionXLLoraLoaderMixin.lora_state_dict(
        load_file(path), unet_config=config
    )
    alphas = alphas or {}
    networks = {"unet": unet}
    for number, encoder in enumerate(text_encoders):
        networks["text_encoder" if number == 0 else f"text_encoder_{number + 1}"] = encoder
    found: dict[str, torch.Tensor] = {}
    for part, network in networks.items():
        prefix = f"{part}."
        factors = _rename(_select_prefix(state, prefix), network, part)
        scales = _scales(_select_prefix(alphas, prefix), network, part)
        weights = dict(network.named_parameters())
        for layer, (down, up) in _match(factors, network, part).items():
            dtype = weights[f"{layer}.weight"].dtype
            scale = scales.get(layer, down.shape[0]) / down.shape[0]
            found[f"{part}/{layer}/down"] = down.to(dtype)
            found[f"{part}/{layer}/up"] = (up * scale).to(dtype)
    if not found:
        raise AdapterError("the file has no layers for the UNet or the text encoders")
    # All factors travel as one buffer.
    moved = (uploader or _make_uploader(unet)).upload(found)
    parts: dict[str, dict[str, LoraLayer]] = {part: {} for part in networks}
    for key in found:
        part, layer, factor = key.split("/")
        if factor == "down":
            parts[part][layer] = LoraLayer(moved[key], moved[f"{part}/{layer}/up"])
    others = {key.partition(".")[0] for key in state} - networks.keys()
    return LoraFile(parts.pop("unet"), tuple(parts.values()), tuple(sorted(others)))


def _match(
    factors: Mapping[str, torch.Tensor], network: nn.Module, part: str
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return the factors by layer, in the order of the network's layers.

    Raises:
        AdapterError: a layer does not match the network in name or shape.
    """
    weights = dict(network.named_parameters())
    where = "" if part == "unet" else f" of {part}"
    found = {}
    for key, down in factors.items():
        if not key.endswith(_DOWN):
            continue
        layer = key.removesuffix(_DOWN)
        up = factors.get(f"{layer}{_UP}")
        weight = weights.get(f"{layer}.weight")
        if up is None or weight is None:
            raise AdapterError(f"layer {layer}{where} does not exist in this model")
        if down.shape[1:] != weight.shape[1:] or up.shape[0] != weight.shape[0]:
            raise AdapterError(f"the shape of layer {layer}{where} does not match this model")
        found[layer] = down, up
    return found


def _rename(
    state: Mapping[str, torch.Tensor], network: nn.Module, part: str
) -> dict[str, torch.Tensor]:
    """Give factors the names of the network's modules, followed by peft's of the factors."""
    if part == "unet":
        unet_state: dict[str, torch.Tensor] = convert_unet_state_dict_to_peft(dict(state))
        return unet_state
    renamed = convert_state_dict(dict(state), {**DIFFUSERS_TO_PEFT, **DIFFUSERS_OLD_TO_PEFT})
    if hasattr(network, "text_model"):
        return dict(renamed)
    # transformers 5 has no such module.
    return {key.removeprefix("text_model."): factor for key, factor in renamed.items()}


def _scales(alphas: Mapping[str, float], network: nn.Module, part: str) -> dict[str, float]:
    """Return the alphas by layer.

    The keys are `.alpha` after the layer's name, or after the whole name of its first factor, in
    diffusers' older spelling.
    """
    found = {}
    for key, alpha in alphas.items():
        name = key.removesuffix(".alpha")
        if part == "unet":
            layer = name.removesuffix(".weight").removesuffix(".down")
            layer = layer.removesuffix(".lora").removesuffix("_lora")
            layer = layer.replace(".processor.", ".").replace(".to_out", ".to_out.0")
        else:
            (layer,) = _rename({name: torch.empty(0)}, network, part)
            layer = layer.removesuffix(_DOWN)
        found[layer] = alpha
    return found


def _make_uploader(unet: nn.Module) -> WeightUploader:
    weight = next(unet.parameters())
    return WeightUploader(Device(weight.device, weight.dtype))


def _select_prefix(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}
