"""Files that are no adapters for SDXL, named as LoRAs: the import says what they are."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.support.weights.adapter_families import unet_case
from benchmarks.support.weights.adapters import refused_adapter
from benchmarks.support.weights.kind import Kind
from testing.weight_files import families
from testing.weight_files.adapter_case import AdapterFileCase
from testing.weight_files.networks import demo_parts
from testing.workbench import WEIGHTS

Tensors = dict[str, torch.Tensor]
_BLOCK = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2"
_LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q"
_WEIGHT_FILE = "diffusion_pytorch_model.safetensors"


def _lora(key: str, inputs: int, outputs: int, down: str = "lora_down", up: str = "lora_up") -> Any:
    return {
        f"{key}.{down}.weight": torch.ones(4, inputs) / 8,
        f"{key}.{up}.weight": torch.ones(outputs, 4) / 8,
    }


def _peft(key: str, inputs: int, outputs: int) -> Any:
    return _lora(key, inputs, outputs, "lora_A", "lora_B")


def _loha(key: str, inputs: int, outputs: int) -> Tensors:
    return {
        f"{key}.hada_w{factor}_{side}": torch.ones(*shape)
        for factor in "12"
        for side, shape in (("a", (outputs, 4)), ("b", (4, inputs)))
    }


def _lokr(key: str, inputs: int, outputs: int) -> Tensors:
    return {f"{key}.lokr_w1": torch.ones(4, 4),
            f"{key}.lokr_w2": torch.ones(outputs // 4, inputs // 4)}  # fmt: skip


_OTHER_MODELS: dict[str, tuple[Tensors, str]] = {
    "SD 1.5": (_lora(f"{_BLOCK}_to_k", 768, 640), "Stable Diffusion 1.5"),
    "SD 1.5, LoHa": (_loha(f"{_BLOCK}_to_k", 768, 640), "Stable Diffusion 1.5"),
    "SD 1.5, LoKr": (_lokr(f"{_BLOCK}_to_k", 768, 640), "Stable Diffusion 1.5"),
    "SD 1.5, full diff": (
        {f"{_BLOCK}_to_k.diff": torch.ones(640, 768)}, "Stable Diffusion 1.5",
    ),
    "SD 1.5, diffusers": (
        _peft("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", 768, 640),
        "Stable Diffusion 1.5",
    ),
    "SD 2": (_lora(f"{_BLOCK}_to_k", 1024, 640), "Stable Diffusion 2"),
    "refiner": (
        _lora("lora_unet_middle_block_1_transformer_blocks_0_attn2_to_k", 1280, 1536), "refiner",
    ),
    "Flux, kohya": (_lora("lora_unet_double_blocks_0_img_attn_qkv", 3072, 9216), "Flux"),
    "Flux, diffusers": (
        _peft("transformer.single_transformer_blocks.0.attn.to_q", 3072, 3072), "Flux",
    ),
    "SD 3": (
        _lora("lora_unet_joint_blocks_0_x_block_attn_qkv", 1536, 4608), "Stable Diffusion 3",
    ),
    "SD 3, diffusers": (
        _peft("transformer.transformer_blocks.0.attn.add_k_proj", 1536, 1536),
        "Stable Diffusion 3",
    ),
    "Wan": (_lora("diffusion_model.blocks.0.self_attn.q", 1536, 1536), "Wan"),
    "Stable Cascade": (
        _lora("lora_prior_unet_down_blocks_0_1_attention_attn_out_proj", 2048, 2048),
        "Stable Cascade",
    ),
    "Qwen-Image": (
        _peft("transformer_blocks.0.img_mlp.net.0.proj", 512, 512), "Qwen-Image",
    ),
    "SDXL of the published size": (
        _lora(f"{_BLOCK}_to_q", 640, 640), "none of its 2 tensors fits this model",
    ),
}  # fmt: skip
_OTHER_FILES: dict[str, tuple[Tensors, str]] = {
    "checkpoint": (
        {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(320, 4, 3, 3),
         "first_stage_model.decoder.conv_in.weight": torch.ones(8, 4, 3, 3)},
        "a checkpoint",
    ),
    "ControlNet": (
        {"controlnet_cond_embedding.conv_in.weight": torch.ones(16, 3, 3, 3)}, "a ControlNet",
    ),
    "ControlNet of the training code": (
        {"control_model.input_hint_block.0.weight": torch.ones(16, 3, 3, 3)}, "a ControlNet",
    ),
    "LLLite": (
        {"lllite_unet_input_blocks_4_1.conditioning1.0.weight": torch.ones(8, 3, 4, 4),
         "lllite_unet_input_blocks_4_1.down.0.weight": torch.ones(4, 4)},
        "ControlNet-LLLite",
    ),
    "control-LoRA": (
        {"lora_controlnet": torch.ones(1), "input_blocks.1.0.in_layers.2.up": torch.ones(4, 4),
         "input_blocks.1.0.in_layers.2.down": torch.ones(4, 4)},
        "a control-LoRA",
    ),
    "textual inversion of SDXL": (
        {"clip_l": torch.ones(4, 768), "clip_g": torch.ones(4, 1280)}, "a textual inversion",
    ),
    "textual inversion of SD 1.5": ({"emb_params": torch.ones(4, 768)}, "a textual inversion"),
    "IP-Adapter": (
        {"image_proj.proj.weight": torch.ones(8, 8), "ip_adapter.1.to_k_ip.weight":
         torch.ones(8, 8)},
        "an IP-Adapter",
    ),
    "tensors of no kind": ({"something.weight": torch.ones(4)}, "no LoRA"),
    "no tensors": ({}, "no LoRA"),
}  # fmt: skip
_FAMILIES: dict[str, tuple[Tensors, str]] = {
    "OFT": ({f"{_BLOCK}_to_q.oft_blocks": torch.ones(4, 8, 8)}, "OFT"),
    "BOFT": ({f"{_BLOCK}_to_q.oft_blocks": torch.ones(2, 4, 8, 8)}, "BOFT"),
    "OFT of peft": ({f"base_model.model.{_LAYER}.oft_R.weight": torch.ones(4, 8)}, "OFT"),
    "GLoRA": (
        {f"{_BLOCK}_to_q.{name}.weight": torch.ones(4, 4) for name in ("a1", "a2", "b1", "b2")},
        "GLoRA",
    ),
    "IA3": (
        {f"{_BLOCK}_to_q.weight": torch.ones(80), f"{_BLOCK}_to_q.on_input": torch.tensor(True)},
        "IA3",
    ),
}


def plain_case() -> AdapterFileCase:
    """Return a valid LoRA, to be damaged."""
    return unet_case(families.write_lora)(demo_parts())


def with_value(value: float, dtype: torch.dtype = torch.float32) -> Callable[[Path], object]:
    """Return the function that writes a LoRA with one such number.

    Args:
        value: the number.
        dtype: dtype of all factors.
    """

    def write(path: Path) -> None:
        case = plain_case()
        case.state = {key: tensor.to(dtype) for key, tensor in case.state.items()}
        key = next(key for key in case.state if key.endswith("up.weight"))
        changed = case.state[key].float()
        changed[-1, -1] = value
        case.state[key] = changed.to(dtype)
        case.save(path)

    return write


def cut(share: float) -> Callable[[Path], object]:
    """Return the function that writes a share of a valid LoRA's bytes."""

    def write(path: Path) -> None:
        content = plain_case().save(path).read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return write


def rank_zero(path: Path) -> None:
    """Write a LoRA without any rank, which some tools write for layers that they left out."""
    case = plain_case()
    case.state = {
        key: tensor[:0] if "down" in key else tensor[:, :0] if "up" in key else tensor
        for key, tensor in case.state.items()
    }
    case.save(path)


def overlapping(path: Path) -> None:
    """Write a header whose two tensors share their bytes."""
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header = json.dumps({f"{_BLOCK}_to_q.lora_{role}.weight": entry for role in ("down", "up")})
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(8))


def _bytes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def _tensors(state: Tensors) -> Callable[[Path], object]:
    return lambda path: save_file({key: tensor.clone() for key, tensor in state.items()}, path)


def _copy(part: str, name: str) -> Callable[[Path], object]:
    return lambda path: path.write_bytes((WEIGHTS / part / name).read_bytes())


def refusal_kinds() -> list[Kind]:
    """Return files that must be refused."""
    found = [
        refused_adapter(name, (named,), _tensors(state))
        for name, (state, named) in {**_OTHER_MODELS, **_OTHER_FILES, **_FAMILIES}.items()
    ]
    damaged: dict[str, tuple[Callable[[Path], object], str]] = {
        "UNet": (_copy("unet", _WEIGHT_FILE), "a UNet"),
        "autoencoder": (_copy("vae", _WEIGHT_FILE), "an autoencoder"),
        "tiny decoder": (_copy("tiny_decoder", _WEIGHT_FILE), "a tiny decoder"),
        "text encoder": (_copy("text_encoder", "model.safetensors"), "a text encoder"),
        "NaN": (with_value(float("nan")), "NaN or infinity"),
        "infinity": (with_value(float("-inf")), "NaN or infinity"),
        "NaN in float16": (with_value(float("nan"), torch.float16), "NaN or infinity"),
        "NaN in bfloat16": (with_value(float("nan"), torch.bfloat16), "NaN or infinity"),
        "NaN in float8": (with_value(float("nan"), torch.float8_e4m3fn), "NaN or infinity"),
        "infinity in float8": (with_value(float("inf"), torch.float8_e5m2), "NaN or infinity"),
        "rank zero": (rank_zero, "empty"),
        "truncated": (cut(0.7), "truncated"),
        "truncated in its header": (cut(0.005), "truncated in its header"),
        "overlapping tensors": (overlapping, "does not start where"),
        "empty file": (_bytes(b""), "empty"),
        "pickle": (_bytes(b"\x80\x02}q\x00." + bytes(256)), "a pickle"),
        "zip archive of torch.save": (_bytes(b"PK\x03\x04" + bytes(256)), "a pickle"),
        "web page": (_bytes(b"<!doctype html><html>" + b" " * 256), "a web page"),
        "pointer of git-lfs": (
            _bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "git-lfs",
        ),
    }  # fmt: skip
    return [
        *found,
        *(refused_adapter(name, (named,), write) for name, (write, named) in damaged.items()),
    ]
