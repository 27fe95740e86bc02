"""Adapter files of all families, read into the networks' dtypes and onto their device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from models.conversion.safetensors_io import WeightsError
from models.lora.contents import LayerTensors, read_contents
from models.lora.layer_table import PARTS, LayerTable, TargetLayer
from runners.device import Device
from runners.errors import AdapterError
from runners.networks.lora.weight_change import (
    AdapterLayer,
    Change,
    Difference,
    Hadamard,
    Kronecker,
    LowRank,
)
from runners.networks.weight_upload import WeightUploader

_FAMILIES: dict[str, type[Change] | None] = {
    "lora": LowRank, "loha": Hadamard, "lokr": Kronecker, "full": Difference, "bias": None,
}  # fmt: skip
_MAGNITUDE, _BIAS = "magnitude", "bias"


@dataclass(frozen=True, slots=True, eq=False)
class AdapterFile:
    """Layers of an adapter: the UNet's by module name, the text encoders' by encoder and name.

    `text` has one mapping for each text encoder of the model. `warning` names what is left out.
    """

    unet: Mapping[str, AdapterLayer]
    text: tuple[Mapping[str, AdapterLayer], ...]
    warning: str | None

    @property
    def bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(layer.bytes for part in (self.unet, *self.text) for layer in part.values())


@torch.inference_mode()
def read_adapter(
    path: Path,
    unet: nn.Module,
    text_encoders: Sequence[nn.Module] = (),
    uploader: WeightUploader | None = None,
) -> AdapterFile:
    """Read an adapter file into the networks' dtypes and onto their device.

    Args:
        path: a safetensors file of any family in models/lora/families.py.
        unet: the UNet.
        text_encoders: the text encoders; parts of a file for others are left out.
        uploader: copier of weights to the networks' device; a new one if None.

    Raises:
        AdapterError: the file is no adapter for these networks; the message says what it is.
    """
    networks = dict(zip(PARTS, (unet, *text_encoders), strict=False))
    table = LayerTable({part: _config(network) for part, network in networks.items()})
    try:
        contents = read_contents(path, table)
    except WeightsError as error:
        raise AdapterError(str(error).removeprefix(f"{path.name}: ")) from error
    stored = load_file(path)
    tensors: dict[str, torch.Tensor] = {}
    families: dict[tuple[str, str], type[Change] | None] = {}
    for layer in contents.layers:
        part = layer.target.part
        name = _module_name(networks[part], layer.target)
        families[part, name] = _FAMILIES[layer.family]
        settings = contents.settings[part]
        scale = 1.0
        if layer.rank is not None:
            scale = settings.scale(layer.target.name, layer.rank, _alpha(layer, stored))
        dtype = next(networks[part].parameters()).dtype
        for role, tensor in _convert(layer, stored, scale).items():
            own = torch.float32 if role == _MAGNITUDE else dtype
            tensors[f"{part}/{name}/{role}"] = tensor.to(own).contiguous()
    # All factors travel as one buffer.
    moved = (uploader or _make_uploader(unet)).upload(tensors)
    parts: dict[str, dict[str, AdapterLayer]] = {part: {} for part in networks}
    for (part, name), family in families.items():
        prefix = f"{part}/{name}/"
        roles = () if family is None else tuple(family.__dataclass_fields__)
        parts[part][name] = AdapterLayer(
            None if family is None else family(*(moved[f"{prefix}{role}"] for role in roles)),
            moved.get(f"{prefix}{_MAGNITUDE}"),
            moved.get(f"{prefix}{_BIAS}"),
        )
    return AdapterFile(parts.pop("unet"), tuple(parts.values()), contents.warning)


def _convert(
    layer: LayerTensors, stored: Mapping[str, torch.Tensor], scale: float
) -> dict[str, torch.Tensor]:
    """Return a layer's tensors in float32 by the fields of its family, scaled."""
    # Eight-bit and 64-bit factors have no matrix product or more precision than needed.
    read = {role: stored[key].float() for role, key in layer.tensors.items() if role != "alpha"}
    shape = layer.target.weight
    convert = {"lora": _low_rank, "loha": _hadamard, "lokr": _kronecker, "full": _difference}
    found = convert[layer.family](read, shape, scale) if layer.family in convert else {}
    if "magnitude" in read or "row_magnitude" in read:
        magnitude = read.get("magnitude")
        if magnitude is None:
            magnitude = read["row_magnitude"].reshape(-1, 1)
        is_row = magnitude.shape[0] == shape[0]
        found[_MAGNITUDE] = magnitude.reshape((-1, 1, 1) if is_row else (1, -1, 1))
    # A second factor's bias has its scale; a difference has none.
    biases = [
        read[role].flatten() * factor
        for role, factor in (("up_bias", scale), ("bias", 1.0))
        if role in read
    ]
    if biases:
        found[_BIAS] = torch.stack(biases).sum(0)
    return found


def _low_rank(
    read: Mapping[str, torch.Tensor], shape: Sequence[int], scale: float
) -> dict[str, torch.Tensor]:
    down, up = read["down"], read["up"].flatten(1)
    if "mid" in read:
        # LyCORIS' Tucker form: the core belongs to the first of two factors.
        down = torch.einsum("rshw,si->rihw", read["mid"], down.flatten(1))
    rank = up.shape[1]
    up = (up * scale).view(*up.shape, *(1,) * (len(shape) - 2))
    return {"down": down.reshape(rank, *shape[1:]), "up": up}


def _hadamard(
    read: Mapping[str, torch.Tensor], shape: Sequence[int], scale: float
) -> dict[str, torch.Tensor]:
    found = {}
    for factor in ("w1", "w2"):
        a, b = read[f"hada_{factor}_a"], read[f"hada_{factor}_b"]
        core = read.get(f"hada_{factor.replace('w', 't')}")
        if core is not None:
            a, b = a.T, torch.einsum("ijkl,jr->irkl", core, b).flatten(1)
        found[f"{factor}_a"], found[f"{factor}_b"] = a, b
    found["w1_a"] = found["w1_a"] * scale
    return found


def _kronecker(
    read: Mapping[str, torch.Tensor], shape: Sequence[int], scale: float
) -> dict[str, torch.Tensor]:
    found = {}
    for factor in ("w1", "w2"):
        whole = read.get(f"lokr_{factor}")
        if whole is None:
            a, b = read[f"lokr_{factor}_a"], read[f"lokr_{factor}_b"]
            core = read.get(f"lokr_{factor.replace('w', 't')}")
            whole = (
                a @ b.flatten(1) if core is None else torch.einsum("ijkl,jr,ip->prkl", core, b, a)
            )
        found[factor] = whole.flatten(1)
    found["w1"] = found["w1"] * scale
    return found


def _difference(
    read: Mapping[str, torch.Tensor], shape: Sequence[int], scale: float
) -> dict[str, torch.Tensor]:
    rows = 1 if len(shape) == 1 else shape[0]
    return {"weight": read["diff"].reshape(rows, -1) * scale}


def _alpha(layer: LayerTensors, stored: Mapping[str, torch.Tensor]) -> float | None:
    key = layer.tensors.get("alpha")
    if key is None or not stored[key].numel():
        return None
    return float(stored[key].flatten()[0])


def _config(network: Any) -> Mapping[str, Any]:
    config = network.config
    return config.to_dict() if hasattr(config, "to_dict") else dict(config)


def _module_name(network: nn.Module, target: TargetLayer) -> str:
    # transformers 5 has no such module.
    is_older = target.part == "unet" or hasattr(network, "text_model")
    return target.name if is_older else target.name.removeprefix("text_model.")


def _make_uploader(unet: nn.Module) -> WeightUploader:
    weight = next(unet.parameters())
    return WeightUploader(Device(weight.device, weight.dtype))
