"""ControlNets in folders and single files, compared with diffusers' networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.support.weights.kind import Kind, Measure, WrittenKind
from models.store.store import CatalogEntry
from runners.networks.loading import load_component
from testing.weight_files.controlnets import (
    ldm_tensors,
    network,
    residuals,
    write_file,
    write_folder,
)
from testing.weight_files.networks import demo_parts
from testing.workbench import DEVICE

Tensors = dict[str, torch.Tensor]
_PLAIN = ("full", "flat", "bare", "small")
_UNIONS = ("union", "promax")
_WriteForm = Callable[[Path, Any], Path]
_FORMS: dict[str, _WriteForm] = {
    "folder": lambda folder, made: write_folder(folder / "controlnet", made),
    "half precision's name": lambda folder, made: write_folder(
        folder / "controlnet", made, "diffusion_pytorch_model.fp16.safetensors"
    ),
    "file": lambda folder, made: write_file(folder / "own.SAFETENSORS", made.state_dict()),
    "file, prefix": lambda folder, made: write_file(
        folder / "own.sft", made.state_dict(), "controlnet."
    ),
}
_TRAINING_FORMS: dict[str, _WriteForm] = {
    "training code": lambda folder, made: write_file(
        folder / "own.safetensors", ldm_tensors(made), "control_model."
    ),
    "training code, no prefix": lambda folder, made: write_file(
        folder / "own.safetensors", ldm_tensors(made)
    ),
}
_ONE = torch.ones(1)
_OTHER_FILES: dict[str, tuple[Tensors, str]] = {
    "control-LoRA": (
        {"lora_controlnet": _ONE, "input_hint_block.0.weight": _ONE}, "a control-LoRA",
    ),
    "LLLite": (
        {"lllite_unet_input_blocks_4_1.conditioning1.0.weight": _ONE}, "a ControlNet-LLLite",
    ),
    "T2I-Adapter": ({"adapter.body.0.resnets.0.block1.weight": _ONE}, "a T2I-Adapter"),
    "IP-Adapter": ({"image_proj.proj.weight": _ONE}, "an IP-Adapter"),
    "ControlNet-XS": ({"down_blocks.0.base_to_ctrl.0.weight": _ONE}, "a ControlNet-XS"),
    "ControlNet for Flux": ({"controlnet_x_embedder.weight": _ONE}, "a ControlNet for Flux"),
    "ControlNet for SD 3": (
        {"pos_embed_input.proj.weight": _ONE, "controlnet_blocks.0.weight": _ONE},
        "a ControlNet for Stable Diffusion 3",
    ),
    "LoRA": ({"lora_unet_down_blocks_1.lora_down.weight": _ONE}, "a LoRA"),
    "checkpoint": (
        {"model.diffusion_model.out.2.weight": _ONE, "first_stage_model.x": _ONE}, "a checkpoint",
    ),
    "autoencoder": ({"encoder.conv_in.weight": torch.ones(8, 3, 3, 3)}, "an autoencoder"),
    "tensors of no kind": ({"something.weight": _ONE}, "not a ControlNet"),
}  # fmt: skip
_SD15: dict[str, Any] = {
    "addition_embed_type": None, "addition_time_embed_dim": None,
    "projection_class_embeddings_input_dim": None, "block_out_channels": [32, 64, 96, 96],
    "use_linear_projection": False,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "transformer_layers_per_block": 1, "attention_head_dim": 8, "norm_num_groups": 32,
}  # fmt: skip


def controlnet_kinds() -> list[Kind]:
    """Return the kinds of ControlNets in all their forms."""
    found = []
    for network_kind in (*_PLAIN, *_UNIONS):
        forms = _FORMS if network_kind in _UNIONS else {**_FORMS, **_TRAINING_FORMS}
        found += [_exact(network_kind, form, write) for form, write in forms.items()]
    return found


def controlnet_refusals() -> list[Kind]:
    """Return files that are no ControlNets for SDXL."""
    found = [
        _refused(name, (named,), lambda folder, state=state: write_file(folder / "own.sft", state))
        for name, (state, named) in _OTHER_FILES.items()
    ]
    for channels, model in ((768, "Stable Diffusion 1.5"), (1024, "Stable Diffusion 2")):
        for form, write in {**_FORMS, **_TRAINING_FORMS}.items():
            found.append(
                _refused(
                    f"for {model}, {form}",
                    (f"a ControlNet for {model}",),
                    lambda folder, write=write, width=channels: write(
                        folder, network("full", **{**_SD15, "cross_attention_dim": width})
                    ),
                )
            )
    return [
        *found,
        _refused("of another width", ("no ControlNet for",), _another_width),
        _refused("with NaN", ("conv_in.bias", "NaN or infinity"), _with_nan),
        _refused("pickle", ("only safetensors",), _pickle),
    ]


def _made(kind: str) -> Any:
    return network(kind, dict(demo_parts().unet_config))


def _exact(kind: str, form: str, write_form: _WriteForm) -> Kind:
    def write(folder: Path) -> WrittenKind:
        made = _made(kind)
        return _written(folder, write_form(folder, made), _compare(made))

    return Kind(f"{kind}: {form}", "exact", write)


def _refused(name: str, named: tuple[str, ...], write_file_of: Callable[[Path], Path]) -> Kind:
    return Kind(
        name, "refused", lambda folder: _written(folder, write_file_of(folder), None), named
    )


def _written(folder: Path, source: Path, measure: Measure | None) -> WrittenKind:
    name = folder.name
    lines = f'\n[controlnets.{name}]\nsource = "file:{source}"\nlicence = "none"\n'
    return WrittenKind("controlnets", name, lines, measure)


def _another_width(folder: Path) -> Path:
    return write_file(folder / "own.safetensors", network("small").state_dict())


def _with_nan(folder: Path) -> Path:
    state = dict(_made("small").state_dict())
    state["conv_in.bias"] = torch.full_like(state["conv_in.bias"], torch.nan)
    return write_file(folder / "own.safetensors", state)


def _pickle(folder: Path) -> Path:
    file = folder / "own.pth"
    file.write_bytes(b"PK\x03\x04" + bytes(256))
    return file


def _compare(made: Any) -> Measure:
    """Return the function that compares a stored ControlNet's residuals with the network's."""

    def measure(entry: CatalogEntry) -> float:
        stored = load_component("controlnet", entry.components["controlnet"].path, DEVICE)
        pairs = zip(residuals(stored), residuals(made), strict=True)
        return max(
            float((found - right).abs().max() / right.abs().max().clamp_min(1e-12))
            for found, right in pairs
        )

    return measure
