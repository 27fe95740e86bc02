"""Spellings of adapter files: how trainers and programs name the same tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from models.conversion.sdxl_key_map import PREFIXES, key_mappings
from testing.weight_files.adapter_case import (
    AdapterFileCase,
    full_text_name,
    kohya,
    split_label,
)

Rename = Callable[[str], str]
Suffixes = Mapping[str, str]

DOWN, UP, ALPHA = "lora_down.weight", "lora_up.weight", "alpha"
KOHYA: Suffixes = {DOWN: ".lora_down.weight", UP: ".lora_up.weight", ALPHA: ".alpha"}
PEFT: Suffixes = {DOWN: ".lora_A.weight", UP: ".lora_B.weight", ALPHA: ".alpha"}
PEFT_NAMED: Suffixes = {
    DOWN: ".lora_A.default.weight", UP: ".lora_B.default.weight", ALPHA: ".alpha",
}  # fmt: skip
DIFFUSERS_20: Suffixes = {DOWN: ".lora.down.weight", UP: ".lora.up.weight", ALPHA: ".lora.alpha"}
LINEAR_LAYER: Suffixes = {
    DOWN: ".lora_linear_layer.down.weight", UP: ".lora_linear_layer.up.weight", ALPHA: ".alpha",
}  # fmt: skip
PROCESSOR: Suffixes = {DOWN: "_lora.down.weight", UP: "_lora.up.weight", ALPHA: "_lora.alpha"}


def respell(
    case: AdapterFileCase, name: Callable[[str], str], suffixes: Suffixes | None = None
) -> AdapterFileCase:
    """Return a case whose layers and tensors have other names.

    Args:
        case: a case in kohya's spelling of diffusers' names.
        name: function from a layer's label to its key.
        suffixes: names of the tensors; by default those of the case.
    """
    labels = {kohya(label): label for label in case.expected}

    def rename(key: str) -> str:
        layer, _, suffix = key.partition(".")
        return name(labels[layer]) + (f".{suffix}" if suffixes is None else suffixes[suffix])

    return case.renamed(rename)


def dotted(unet: str = "", text_encoder: str = "", text_encoder_2: str = "") -> Rename:
    """Return the function from labels to dotted names with a prefix for each network.

    Args:
        unet: prefix of the UNet's layers.
        text_encoder: prefix of the first text encoder's layers.
        text_encoder_2: prefix of the second text encoder's layers.
    """
    prefixes = {"unet": unet, "text_encoder": text_encoder, "text_encoder_2": text_encoder_2}

    def name(label: str) -> str:
        part, layer = split_label(label)
        return prefixes[part] + (layer if part == "unet" else full_text_name(layer))

    return name


def flattened(prefix: str) -> Rename:
    """Return the function from the UNet's labels to names without dots."""
    return lambda label: prefix + label.replace(".", "_")


def processor(label: str) -> str:
    """Return a UNet's attention layer as diffusers named it up to 0.20, with its processor."""
    attention, _, projection = label.removesuffix(".0").rpartition(".")
    return f"unet.{attention}.processor.{projection}"


def training_names(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the UNet's layers under the names of SDXL's training code.

    Args:
        config: canonical configuration of the UNet.
    """
    names = {}
    for move in key_mappings("unet", config):
        if move.target.endswith(".weight"):
            source = move.source.removeprefix(PREFIXES["unet"])
            names[move.target.removesuffix(".weight")] = source.removesuffix(".weight")
    return names


def kohya_training(config: Mapping[str, Any]) -> Rename:
    """Return sd-scripts' function from labels to keys for SDXL: names of the training code."""
    names = training_names(config)

    def name(label: str) -> str:
        if split_label(label)[0] != "unet":
            return kohya(label)
        return "lora_unet_" + names[label].replace(".", "_")

    return name


def comfyui(config: Mapping[str, Any]) -> Rename:
    """Return ComfyUI's function from the UNet's labels to keys."""
    names = training_names(config)
    return lambda label: f"diffusion_model.{names[label]}"


def alternating(labels: Iterable[str], first: Rename, second: Rename) -> Rename:
    """Return a function that spells every other layer as `second` does.

    Args:
        labels: all layers.
        first: spelling of the layers at even positions.
        second: spelling of the others.
    """
    chosen = {label: (first, second)[number % 2] for number, label in enumerate(labels)}
    return lambda label: chosen[label](label)
