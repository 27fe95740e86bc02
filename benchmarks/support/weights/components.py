"""Single files of a variant's components, compared with the tensors of the demo set's folders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from benchmarks.support.weights.kind import Kind, Measure, WrittenKind
from models.conversion.component import weight_name
from models.conversion.sdxl_key_map import PREFIXES
from models.conversion.single_file import SINGLE_FILE_KINDS
from models.store.store import CatalogEntry
from testing.weight_files.components import in_library_names, in_training_names
from testing.workbench import WEIGHTS

Tensors = dict[str, torch.Tensor]
_FLOAT8_SCALE = 2.0**-5
_PREFIXES: dict[str, tuple[str, ...]] = {
    "text_encoder": ("clip_l.transformer.",), "text_encoder_2": ("clip_g.", ""),
    "unet": ("diffusion_model.", ""), "vae": ("vae.", ""),
}  # fmt: skip
"""Prefixes of the training code's names, besides a whole checkpoint's."""
_SUFFIXES = {"text_encoder": "sft", "text_encoder_2": "SAFETENSORS", "unet": "safetensors",
             "vae": "SFT"}  # fmt: skip


def component_kinds() -> list[Kind]:
    """Return the namings of each component in a single file."""
    found = []
    for part in SINGLE_FILE_KINDS:
        found.append(_exact(part, "of a checkpoint", lambda part=part: in_training_names(part)))
        for prefix in _PREFIXES[part]:
            label = f"training code, {prefix.rstrip('.') or 'no prefix'}"
            found.append(_exact(part, label, lambda part=part, new=prefix: _renamed(part, new)))
        found.append(_exact(part, "its library", lambda part=part: in_library_names(part)))
        found.append(
            _exact(
                part,
                "its library, prefix",
                lambda part=part: {f"{part}.{k}": t for k, t in in_library_names(part).items()},
            )
        )
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        for scale in (None, _FLOAT8_SCALE):
            found.append(_float8(dtype, scale))
    return found


def component_refusals() -> list[Kind]:
    """Return files that are no such component of SDXL."""
    first = "model.diffusion_model.input_blocks.0.0.weight"
    chosen: dict[str, tuple[str, Callable[[], Tensors], tuple[str, ...]]] = {
        "vae of Flux": (
            "vae",
            lambda: in_library_names("vae") | {"decoder.conv_in.weight": torch.ones(8, 16, 3, 3)},
            ("decoder.conv_in.weight", "another model"),
        ),
        "unet of SD 1.5": (
            "unet",
            lambda: {f"{_BLOCK}.attn2.to_k.weight": torch.ones(320, 768)},
            ("unet",),
        ),
        "unet of an inpainting model": (
            "unet",
            lambda: in_training_names("unet") | {first: torch.ones(48, 9, 3, 3)},
            ("[48, 9, 3, 3]",),
        ),
        "unet that lacks a tensor": (
            "unet",
            lambda: {k: t for k, t in in_library_names("unet").items() if k != "conv_out.bias"},
            ("no complete unet", "conv_out.bias"),
        ),
        "LoRA as unet": (
            "unet", lambda: {"lora_unet_conv_in.lora_down.weight": torch.ones(4, 4)}, ("a LoRA",),
        ),
        "unet as vae": ("vae", lambda: in_library_names("unet"), ("no vae",)),
        "vae as text_encoder": (
            "text_encoder", lambda: in_library_names("vae"), ("no text_encoder",),
        ),
        "text_encoder as text_encoder_2": (
            "text_encoder_2", lambda: in_library_names("text_encoder"), ("text_encoder",),
        ),
        "vae with NaN": (
            "vae",
            lambda: {
                k: torch.full_like(t, torch.nan) if k == "quant_conv.bias" else t
                for k, t in in_library_names("vae").items()
            },
            ("quant_conv.bias", "NaN or infinity"),
        ),
    }  # fmt: skip

    def refused(name: str, part: str, make: Callable[[], Tensors], named: tuple[str, ...]) -> Kind:
        return Kind(name, "refused", lambda folder: _write(folder, part, make(), None), named)

    return [refused(name, *rest) for name, rest in chosen.items()]


_BLOCK = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0"


def _renamed(part: str, prefix: str) -> Tensors:
    return {
        prefix + key.removeprefix(PREFIXES[part]): tensor
        for key, tensor in in_training_names(part).items()
    }


def _exact(part: str, label: str, make: Callable[[], Tensors]) -> Kind:
    def write(folder: Path) -> WrittenKind:
        return _write(folder, part, make(), _compare(part, in_library_names(part)))

    return Kind(f"{part}: {label}", "exact", write)


def _float8(dtype: torch.dtype, scale: float | None) -> Kind:
    """Return the kind of a UNet whose matrices have eight bits, with a scale for each or without.

    Args:
        dtype: dtype of the matrices.
        scale: their scale.
    """

    def write(folder: Path) -> WrittenKind:
        state: Tensors = {} if scale is None else {"scaled_fp8": torch.zeros(0, dtype=dtype)}
        expected = in_library_names("unet")
        for name, tensor in in_library_names("unet").items():
            state[name] = tensor
            if tensor.dim() > 1:
                state[name] = (tensor.float() / (scale or 1.0)).clamp(-400, 400).to(dtype)
                expected[name] = (state[name].float() * (scale or 1.0)).to(tensor.dtype)
                if scale is not None:
                    state[f"{name.removesuffix('weight')}scale_weight"] = torch.tensor(scale)
        return _write(folder, "unet", state, _compare("unet", expected))

    name = str(dtype).removeprefix("torch.")
    return Kind(f"unet: {name}{'' if scale is None else ', scaled'}", "exact", write)


def _write(folder: Path, part: str, state: Tensors, measure: Measure | None) -> WrittenKind:
    name, file = folder.name, folder / f"own.{_SUFFIXES[part]}"
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, file)
    lines = f"""
[models.{name}]
source = "file:{WEIGHTS}"
{part} = "file:{file}"
licence = "none"
native_size = 256
steps = 4
cfg = 1.0
scheduler = {{ class = "EulerDiscreteScheduler" }}
"""
    return WrittenKind("models", name, lines, measure)


def _compare(part: str, expected: Mapping[str, torch.Tensor]) -> Measure:
    """Return the function that compares a stored component's tensors with the right ones."""

    def measure(entry: CatalogEntry) -> float:
        stored = load_file(entry.components[part].path / weight_name(part))
        if stored.keys() != expected.keys():
            raise ValueError(f"other tensors: {sorted(stored.keys() ^ expected.keys())[:3]}")
        errors = [
            float((stored[name].double() - tensor.double()).abs().max())
            / max(float(tensor.double().abs().max()), 1e-12)
            for name, tensor in expected.items()
        ]
        return max(errors)

    return measure
