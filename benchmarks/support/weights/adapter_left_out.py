"""Adapter files with parts that are not applied: the rest acts, and a note names them."""

from __future__ import annotations

import json

import torch

from benchmarks.support.weights.adapter_families import unet_case
from benchmarks.support.weights.adapter_numbers import METADATA, peft_layers
from benchmarks.support.weights.adapters import MakeCase, adapter_kind
from benchmarks.support.weights.kind import Kind
from testing.weight_files import families
from testing.weight_files.adapter_case import AdapterFileCase, kohya, labels_of
from testing.weight_files.networks import Networks
from testing.weight_files.spellings import kohya_training

_RANK = 4
Tensors = dict[str, torch.Tensor]


def first_layer(networks: Networks, ending: str = "attn2.to_q") -> tuple[str, int, int]:
    """Return the label, the inputs and the outputs of a layer that the LoRA does not change."""
    label = labels_of(networks.unet, [ending])[0]
    outputs, inputs = networks.unet.get_submodule(label).weight.shape[:2]  # type: ignore[union-attr]
    return label, int(inputs), int(outputs)


def _with(more: Tensors) -> MakeCase:
    """Return the function that makes a LoRA with further tensors."""

    def make(networks: Networks) -> AdapterFileCase:
        case = _plain(networks)
        case.state |= more
        return case

    return make


def _plain(networks: Networks) -> AdapterFileCase:
    return unet_case(families.write_lora, ("attn1.to_q", "ff.net.2"))(networks)


def _with_layer(tensors: str, dtype: torch.dtype = torch.float32) -> MakeCase:
    """Return the function that makes a LoRA with one more layer, of some tensors.

    Args:
        tensors: names of the layer's tensors, separated by spaces.
        dtype: their dtype.
    """

    def make(networks: Networks) -> AdapterFileCase:
        case = _plain(networks)
        label, inputs, outputs = first_layer(networks)
        shapes: dict[str, tuple[int, ...]] = {
            "lora_down.weight": (_RANK, inputs), "lora_up.weight": (outputs, _RANK),
            "hada_w1_a": (outputs, _RANK), "oft_blocks": (_RANK, 4, 4),
            "a1.weight": (_RANK, inputs), "a2.weight": (outputs, _RANK),
            "b1.weight": (_RANK, inputs), "b2.weight": (outputs, _RANK),
            "on_input": (), "weight": (outputs,), "set_weight": (outputs, inputs), "scalar": (),
            "diff_b": (outputs,), "alpha": (2,),
        }  # fmt: skip
        for name in tensors.split():
            case.state[f"{kohya(label)}.{name}"] = torch.ones(shapes[name], dtype=dtype)
        return case

    return make


def inpainting(networks: Networks) -> AdapterFileCase:
    """Return a LoRA whose first convolution takes an inpainting model's nine channels."""
    case = _plain(networks)
    width = networks.unet.get_submodule("conv_in").weight.shape[0]  # type: ignore[union-attr]
    case.state |= {
        "lora_unet_conv_in.lora_down.weight": torch.ones(_RANK, 9, 3, 3),
        "lora_unet_conv_in.lora_up.weight": torch.ones(int(width), _RANK, 1, 1),  # type: ignore[arg-type]
    }
    return case


def two_spellings(networks: Networks) -> AdapterFileCase:
    """Return a file that names one layer twice; the first counts."""
    case = _plain(networks)
    label = next(iter(case.expected))
    other = kohya_training(networks.unet_config)(label)
    case.state |= {
        key.replace(kohya(label), other): torch.zeros_like(tensor)
        for key, tensor in list(case.state.items())
        if key.startswith(f"{kohya(label)}.")
    }
    return case


def unread_pattern(networks: Networks) -> AdapterFileCase:
    """Return a file whose settings have an expression that is not evaluated."""
    case = unet_case(peft_layers({"": 0.5}), ("attn1.to_q",))(networks)
    settings = {"unet.lora_alpha": 2, "unet.alpha_pattern": {"(?!.*attn2).*to_v": 8}}
    case.metadata = {METADATA: json.dumps(settings)}
    return case


def left_out_kinds() -> list[Kind]:
    """Return files with parts that are left out."""
    embedding = {"bundle_emb.own style.clip_l": torch.ones(2, 64),
                 "bundle_emb.own style.clip_g": torch.ones(2, 96)}  # fmt: skip
    missing = "lora_unet_mid_block_attentions_7_proj_in"
    other = {f"{missing}.lora_down.weight": torch.ones(4, 8),
             f"{missing}.lora_up.weight": torch.ones(8, 4)}  # fmt: skip
    plain: dict[str, tuple[MakeCase, tuple[str, ...]]] = {
        "bundled embedding": (_with(embedding), ("own style", "embedding")),
        "scalar of its own": (_with({"emphasis_scale": torch.tensor(1.0)}), ("emphasis_scale",)),
        "counter of steps": (_with({"iteration": torch.tensor(100)}), ("iteration",)),
        "position ids": (
            _with({"text_model.embeddings.position_ids": torch.arange(77)[None]}),
            ("position_ids",),
        ),
        "layer that the model lacks": (_with(other), ("no such layer",)),
        "layer of an inpainting model": (inpainting, ("conv_in", "shape")),
        "layer without its second factor": (_with_layer("lora_down.weight"), ("up missing",)),
        "layer without a factor of LoHa": (_with_layer("hada_w1_a"), ("missing",)),
        "layer of OFT": (_with_layer("oft_blocks"), ("OFT",)),
        "layer of GLoRA": (_with_layer("a1.weight a2.weight b1.weight b2.weight"), ("GLoRA",)),
        "layer of IA3": (_with_layer("weight on_input"), ("IA3",)),
        "layer of integers": (
            _with_layer("lora_down.weight lora_up.weight", torch.int8), ("I8",),
        ),
        "layer with a whole weight": (_with_layer("set_weight"), ("set_weight",)),
        "factor beside a layer": (_with_layer("scalar"), ("scalar",)),
        "bias where the layer has none": (_with_layer("diff_b"), ("no bias",)),
        "alpha with two numbers": (
            _with_layer("lora_down.weight lora_up.weight alpha"), ("alpha",),
        ),
        "two spellings of a layer": (two_spellings, ("two of them",)),
        "expression in alpha_pattern": (unread_pattern, ("alpha_pattern",)),
    }  # fmt: skip
    return [adapter_kind(name, make, "left out", named) for name, (make, named) in plain.items()]
