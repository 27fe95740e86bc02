"""Spellings of adapter files, with the outputs of diffusers where it reads them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.support.weights.adapter_families import all_networks, text_case, unet_case
from benchmarks.support.weights.adapters import MakeCase, adapter_kind
from benchmarks.support.weights.kind import Kind
from benchmarks.support.weights.references import outputs_of_diffusers
from testing.weight_files import families
from testing.weight_files.adapter_case import LINEAR, NORMS, AdapterFileCase, kohya, make_case
from testing.weight_files.networks import Networks
from testing.weight_files.spellings import (
    DIFFUSERS_20,
    KOHYA,
    LINEAR_LAYER,
    PEFT,
    PEFT_NAMED,
    PROCESSOR,
    Rename,
    Suffixes,
    alternating,
    comfyui,
    dotted,
    flattened,
    kohya_training,
    processor,
    respell,
)

_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_ONE_TRAINER = (
    *LINEAR, "add_embedding.linear_1", "add_embedding.linear_2", "time_embedding.linear_1",
    "time_embedding.linear_2", "time_emb_proj", "conv1", "conv2", "conv_shortcut", "conv_in",
    "conv_out", "samplers.0.conv",
)  # fmt: skip
_NAMES: dict[str, tuple[Callable[[Networks], Rename], Suffixes | None]] = {
    "kohya, diffusers' names": (lambda _: kohya, None),
    "kohya, names of the training code": (lambda n: kohya_training(n.unet_config), None),
    "kohya, dotted": (lambda _: dotted(unet="unet."), KOHYA),
    "diffusers": (lambda _: dotted(unet="unet."), PEFT),
    "diffusers 0.20": (lambda _: dotted(unet="unet."), DIFFUSERS_20),
    "lora_linear_layer": (lambda _: dotted(unet="unet."), LINEAR_LAYER),
    "peft": (lambda _: dotted(unet="base_model.model."), PEFT),
    "peft with an adapter's name": (lambda _: dotted(unet="base_model.model.unet."), PEFT_NAMED),
    "no prefix": (lambda _: dotted(), PEFT),
    "lycoris_": (lambda _: flattened("lycoris_"), None),
    "lycoris_unet_": (lambda _: flattened("lycoris_unet_"), None),
    "ComfyUI": (lambda n: comfyui(n.unet_config), KOHYA),
    "ComfyUI with lora_A": (lambda n: comfyui(n.unet_config), PEFT),
    "training code": (
        lambda n: lambda label: f"model.{comfyui(n.unet_config)(label)}", KOHYA,
    ),
}  # fmt: skip
_TEXT_NAMES: dict[str, tuple[str, str]] = {
    "diffusers": ("text_encoder.", "text_encoder_2."),
    "clip_l": ("clip_l.", "clip_g."),
    "clip_l.transformer": ("clip_l.transformer.", "clip_g.transformer."),
    "ComfyUI": ("text_encoders.clip_l.transformer.", "text_encoders.clip_g.transformer."),
}


def mixed_names(networks: Networks) -> AdapterFileCase:
    """Return a file with both of kohya's namings."""
    case = unet_case(families.write_lora)(networks)
    names = kohya_training(networks.unet_config)
    return respell(case, alternating(case.expected, kohya, names))


def processors(networks: Networks) -> AdapterFileCase:
    """Return a file with the attention processors of diffusers up to 0.17."""
    return respell(unet_case(families.write_lora, _ATTENTION)(networks), processor, PROCESSOR)


def one_trainer(networks: Networks) -> AdapterFileCase:
    """Return a file as OneTrainer's preset `full` writes it, of all layers and both encoders."""
    case = make_case(networks.unet, families.write_lora, _ONE_TRAINER)
    return case.joined(text_case(families.write_lora)(networks))


def one_trainer_bundle(networks: Networks) -> AdapterFileCase:
    """Return OneTrainer's file with a bundled embedding."""
    case = one_trainer(networks)
    case.state |= {
        "bundle_emb.ema yasuhara.clip_l": torch.ones(2, 64),
        "bundle_emb.ema yasuhara.clip_g": torch.ones(2, 96),
    }
    return case


def norms_in_training_names(networks: Networks) -> AdapterFileCase:
    """Return LyCORIS' differences of normalisations with the names of SDXL's training code."""
    case = unet_case(families.write_norm, NORMS)(networks)
    return respell(case, kohya_training(networks.unet_config))


def _named(name: Callable[[Networks], Rename], suffixes: Suffixes | None) -> MakeCase:
    def make(networks: Networks) -> AdapterFileCase:
        return respell(unet_case(families.write_lora)(networks), name(networks), suffixes)

    return make


def _text_named(first: str, second: str) -> MakeCase:
    def make(networks: Networks) -> AdapterFileCase:
        case = text_case(families.write_lora)(networks)
        return respell(case, dotted(text_encoder=first, text_encoder_2=second), PEFT)

    return make


def spelling_kinds() -> list[Kind]:
    """Return all spellings of a LoRA."""
    found = [adapter_kind(name, _named(*chosen)) for name, chosen in _NAMES.items()]
    found += [
        adapter_kind("kohya, both namings", mixed_names),
        adapter_kind("diffusers 0.17, processors", processors),
        adapter_kind("OneTrainer, preset full", one_trainer),
        adapter_kind(
            "OneTrainer with an embedding", one_trainer_bundle, "left out", ("ema yasuhara",)
        ),
        adapter_kind("norms, names of the training code", norms_in_training_names),
    ]
    found += [
        adapter_kind(f"text encoders: {name}", _text_named(*prefixes))
        for name, prefixes in _TEXT_NAMES.items()
    ]
    compared: dict[str, MakeCase] = {
        "kohya": all_networks,
        "kohya, names of the training code": _named(lambda n: kohya_training(n.unet_config), None),
        "diffusers": _named(lambda _: dotted(unet="unet."), PEFT),
        "lora_linear_layer": _named(lambda _: dotted(unet="unet."), LINEAR_LAYER),
    }
    for name, make in compared.items():
        for strength in (1.0, -0.7):
            found.append(
                adapter_kind(
                    f"{name}, as diffusers at {strength:g}",
                    make,
                    strength=strength,
                    reference=outputs_of_diffusers,
                )
            )
    return found
