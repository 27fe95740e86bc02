"""Numbers of adapter files: scales, dtypes, and the strengths at which they are applied."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import torch

from benchmarks.support.weights.adapter_families import text_case, unet_case
from benchmarks.support.weights.adapters import MakeCase, adapter_kind
from benchmarks.support.weights.kind import Kind
from testing.weight_files import families
from testing.weight_files.adapter_case import (
    KERNELS,
    LINEAR,
    TEXT_LINEAR,
    TEXT_PARTS,
    AdapterFileCase,
    Random,
    Write,
    add,
    full_text_name,
    kohya,
    make_case,
    split_label,
)
from testing.weight_files.networks import Networks

METADATA = "lora_adapter_metadata"
_ALPHAS: dict[str, tuple[torch.Tensor | None, float]] = {
    "scalar": (torch.tensor(2.0), 0.5),
    "of shape [1]": (torch.tensor([2.0]), 0.5),
    "integer": (torch.tensor(2), 0.5),
    "bfloat16": (torch.tensor(8.0, dtype=torch.bfloat16), 2.0),
    "float64": (torch.tensor(3.0, dtype=torch.float64), 0.75),
    "negative": (torch.tensor(-4.0), -1.0),
    "missing": (None, 1.0),
}
_SETTINGS: dict[str, tuple[dict[str, Any], Mapping[str, float]]] = {
    "alpha 32 of rank 4": ({"unet.r": 4, "unet.lora_alpha": 32}, {"": 8.0}),
    "alpha 2 of rank 4": ({"unet.r": 4, "unet.lora_alpha": 2}, {"": 0.5}),
    "rsLoRA": ({"unet.r": 4, "unet.lora_alpha": 4, "unet.use_rslora": True}, {"": 2.0}),
    "alpha_pattern": (
        {"unet.r": 4, "unet.lora_alpha": 4, "unet.alpha_pattern": {"attn1.to_q": 16}},
        {"attn1.to_q": 4.0, "": 1.0},
    ),
    "alpha_pattern with a choice": (
        {"unet.r": 4, "unet.lora_alpha": 4, "unet.alpha_pattern": {r"attn\d\.to_(q|k)": 16}},
        {"to_q": 4.0, "to_k": 4.0, "": 1.0},
    ),
    "without the network's name": ({"r": 4, "lora_alpha": 2}, {"": 0.5}),
}  # fmt: skip


def with_alpha(alpha: torch.Tensor | None, scale: float) -> Write:
    """Return the function that writes a LoRA of rank 4 with an alpha, which gives the scale."""

    def write(case: AdapterFileCase, layer: str, module: Any, random: Random) -> None:
        families.write_lora(case, layer, module, random)
        key = kohya(layer)
        down, up = (case.state[f"{key}.lora_{role}.weight"] for role in ("down", "up"))
        del case.state[f"{key}.alpha"]
        if alpha is not None:
            case.state[f"{key}.alpha"] = alpha.clone()
        add(case, layer, module, up.flatten(1) @ down.flatten(1) * scale)

    return write


def per_layer(case: AdapterFileCase, layer: str, module: Any, random: Random) -> None:
    """Write a LoRA whose rank and alpha change from layer to layer; every third alpha is zero."""
    number = len(case.expected)
    rank, alpha = 1 + number % 5, float(number % 3)
    outputs, inputs = module.weight.shape
    down, up = random(rank, inputs, scale=0.3), random(outputs, rank, scale=0.1)
    key = kohya(layer)
    case.state |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
    case.state[f"{key}.alpha"] = torch.tensor(alpha)
    add(case, layer, module, up @ down * (alpha / rank))


def peft_layers(scales: Mapping[str, float]) -> Write:
    """Return the function that writes a diffusers LoRA of rank 4, without an alpha of its own.

    Args:
        scales: the scale by the end of a layer's name; the first that fits counts.
    """

    def write(case: AdapterFileCase, layer: str, module: Any, random: Random) -> None:
        outputs, inputs = module.weight.shape
        down, up = random(4, inputs, scale=0.3), random(outputs, 4, scale=0.05)
        part, name = split_label(layer)
        key = f"{part}.{name if part == 'unet' else full_text_name(name)}"
        case.state |= {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}
        scale = next(value for end, value in scales.items() if layer.endswith(end))
        add(case, layer, module, up @ down * scale)

    return write


def with_settings(settings: Mapping[str, Any], scales: Mapping[str, float]) -> MakeCase:
    """Return the function that makes a file with peft's settings in its metadata.

    Args:
        settings: the settings.
        scales: the scales that they give, as for `peft_layers`.
    """

    def make(networks: Networks) -> AdapterFileCase:
        case = unet_case(peft_layers(scales))(networks)
        case.metadata = {METADATA: json.dumps(settings)}
        return case

    return make


def settings_of_all_networks(networks: Networks) -> AdapterFileCase:
    """Return a file with other settings for each network."""
    settings = {"unet.lora_alpha": 2, "text_encoder.lora_alpha": 8,
                "text_encoder_2.lora_alpha": 4, "text_encoder_2.use_rslora": True}  # fmt: skip
    cases = [
        make_case(encoder, peft_layers({"": scale}), TEXT_LINEAR, part)
        for part, encoder, scale in zip(
            TEXT_PARTS, networks.text_encoders, (2.0, 4 / math.sqrt(4)), strict=True
        )
    ]
    case = unet_case(peft_layers({"": 0.5}))(networks).joined(*cases)
    case.metadata = {METADATA: json.dumps(settings)}
    return case


def in_dtype(dtype: torch.dtype, write: Write, layers: tuple[str, ...] = LINEAR) -> MakeCase:
    """Return the function that makes a file in a dtype.

    Args:
        dtype: dtype of all factors.
        write: the function of a low-rank family.
        layers: endings of the layers' names.
    """

    def rounding(case: AdapterFileCase, layer: str, module: Any, random: Random) -> None:
        write(case, layer, module, random)
        key = kohya(layer)
        down, up = (f"{key}.lora_{role}.weight" for role in ("down", "up"))
        case.state |= {name: case.state[name].to(dtype) for name in (down, up)}
        factors = case.state[up].double().flatten(1), case.state[down].double().flatten(1)
        add(case, layer, module, factors[0] @ factors[1] / 2)

    return unet_case(rounding, layers)


def mixed_dtypes(networks: Networks) -> AdapterFileCase:
    """Return a file whose factors have other dtypes: down in bfloat16, up in float32."""
    case = in_dtype(torch.bfloat16, families.write_lora)(networks)
    case.state = {
        key: tensor.float() if key.endswith("up.weight") else tensor
        for key, tensor in case.state.items()
    }
    return case


def scale_kinds() -> list[Kind]:
    """Return the forms of alpha, in tensors and in metadata."""
    found = [
        adapter_kind(f"alpha {name}", unet_case(with_alpha(*chosen)))
        for name, chosen in _ALPHAS.items()
    ]
    found.append(adapter_kind("alpha of text encoders", text_case(with_alpha(torch.tensor(8), 2))))
    found.append(adapter_kind("ranks and alphas per layer, some zero", unet_case(per_layer)))
    found += [
        adapter_kind(f"metadata: {name}", with_settings(*chosen))
        for name, chosen in _SETTINGS.items()
    ]
    return [*found, adapter_kind("metadata of all networks", settings_of_all_networks)]


def dtype_kinds() -> list[Kind]:
    """Return the dtypes of factors."""
    dtypes = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn,
              torch.float8_e5m2)  # fmt: skip
    found = [
        adapter_kind(str(dtype).removeprefix("torch."), in_dtype(dtype, families.write_lora))
        for dtype in dtypes
    ]
    found.append(
        adapter_kind(
            "float8_e4m3fn of convolutions",
            in_dtype(torch.float8_e4m3fn, families.write_lora, KERNELS),
        )
    )
    return [*found, adapter_kind("bfloat16 and float32", mixed_dtypes)]


def strength_kinds() -> list[Kind]:
    """Return strengths of sliders, and the ends of their range for other families."""
    lora = unet_case(families.write_lora)
    found = [
        adapter_kind(f"LoRA at {strength:g}", lora, strength=strength)
        for strength in (-5.0, -1.0, -0.5, 0.3, 2.5, 5.0)
    ]
    others = {
        "DoRA": unet_case(families.dora(families.write_lora, True)),
        "LoHa": unet_case(families.write_loha),
        "LoKr of text encoders": text_case(families.write_lokr),
        "norms": unet_case(families.write_norm, ("norm1", "norm2")),
    }
    for name, make in others.items():
        found += [adapter_kind(f"{name} at {s:g}", make, strength=s) for s in (-5.0, 5.0)]
    return found
