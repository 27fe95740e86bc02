"""Adapter files on the demo networks, each with the weights that it should give at strength 1."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from testing.weight_files.random_loras import layers_of

LINEAR = (
    "to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out",
)  # fmt: skip
CONVOLUTIONS = ("resnets.0.conv1", "conv_shortcut", "conv_in")
KERNELS = ("resnets.0.conv1", "resnets.1.conv2")
NORMS = ("norm1", "norm2", "norm3", "conv_norm_out")
TEXT_LINEAR = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
TEXT_NORMS = ("layer_norm1", "layer_norm2", "final_layer_norm")
TEXT_PARTS = ("text_encoder", "text_encoder_2")

Weights = dict[str, tuple[torch.Tensor, torch.Tensor | None]]
"""Expected weight and bias of each changed layer, by label."""


@dataclass
class AdapterFileCase:
    """Tensors and metadata of a file, and the weights at strength 1.

    A label is the name of a layer's module; a text encoder's begins with the encoder's name.
    """

    state: dict[str, torch.Tensor] = field(default_factory=dict)
    expected: Weights = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)

    def save(self, path: Path) -> Path:
        """Write the file and return its path."""
        state = {key: tensor.contiguous() for key, tensor in self.state.items()}
        save_file(state, path, {"format": "pt", **self.metadata})
        return path

    def renamed(self, rename: Callable[[str], str]) -> AdapterFileCase:
        """Return the same case with other names of the tensors."""
        state = {rename(key): tensor for key, tensor in self.state.items()}
        return AdapterFileCase(state, self.expected, self.metadata)

    def joined(self, *others: AdapterFileCase) -> AdapterFileCase:
        """Return one file with the tensors of several cases, which change different layers."""
        made = AdapterFileCase(dict(self.state), dict(self.expected), dict(self.metadata))
        for other in others:
            made.state |= other.state
            made.expected |= other.expected
            made.metadata |= other.metadata
        return made

    def expected_of(self, part: str) -> Weights:
        """Return the expected weights of one network by the names of its modules."""
        found: Weights = {}
        for label, weights in self.expected.items():
            network, name = split_label(label)
            if network == part:
                found[name] = weights
        return found


class Random:
    """Normally distributed tensors, reproducible."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, scale: float = 1.0) -> torch.Tensor:
        """Return a float32 tensor with a standard deviation of `scale`."""
        return torch.randn(*shape, generator=self._generator) * scale


Write = Callable[[AdapterFileCase, str, Any, Random], None]
"""Function that adds one layer's tensors and expected weights to a case."""


def split_label(label: str) -> tuple[str, str]:
    """Return the network and the module name of a layer's label."""
    first, _, rest = label.partition(".")
    return (first, rest) if first in TEXT_PARTS else ("unet", label)


def kohya(label: str) -> str:
    """Return a layer's key in diffusers' names, as sd-scripts and OneTrainer write it."""
    part, name = split_label(label)
    if part == "unet":
        return "lora_unet_" + name.replace(".", "_")
    number = TEXT_PARTS.index(part) + 1
    return f"lora_te{number}_" + full_text_name(name).replace(".", "_")


def full_text_name(name: str) -> str:
    """Return a text encoder's module name with the part that transformers 5 does without."""
    return name if name.startswith("text_") else f"text_model.{name}"


def make_case(
    network: nn.Module, write: Write, layers: tuple[str, ...] = LINEAR, part: str = "unet"
) -> AdapterFileCase:
    """Let `write` add the tensors and expected weights of each layer.

    Args:
        network: the network that the adapter changes.
        write: the family's function.
        layers: endings of the changed layers' names.
        part: name of the network.
    """
    case, random = AdapterFileCase(), Random(3)
    for layer in layers_of(network, layers):
        label = layer if part == "unet" else f"{part}.{layer}"
        write(case, label, network.get_submodule(layer), random)
    return case


def add(case: AdapterFileCase, layer: str, module: Any, delta: torch.Tensor) -> None:
    """Expect a difference of the layer's weight.

    Args:
        case: the case to extend.
        layer: label of the layer.
        module: the layer.
        delta: the difference, of as many elements as the weight.
    """
    weight = module.weight.detach().double()
    case.expected[layer] = (weight + delta.double().reshape(weight.shape), None)


def apply_expected(
    network: nn.Module, part: str, cases: Iterable[tuple[AdapterFileCase, float]]
) -> None:
    """Change a network to W + sum(strength * (W' - W)) of the cases' expected weights W'.

    Args:
        network: the network, in float32.
        part: its name.
        cases: cases with strengths.
    """
    changes: dict[tuple[str, str], torch.Tensor] = {}
    for case, strength in cases:
        for layer, expected in case.expected_of(part).items():
            module = network.get_submodule(layer)
            for name, wanted in zip(("weight", "bias"), expected, strict=True):
                if wanted is not None:
                    base = getattr(module, name).detach().double()
                    own = strength * (wanted.reshape(base.shape) - base)
                    changes[layer, name] = changes.get((layer, name), torch.zeros_like(base)) + own
    with torch.no_grad():
        for (layer, name), change in changes.items():
            getattr(network.get_submodule(layer), name).add_(change.float())


def labels_of(network: nn.Module, layers: Sequence[str], part: str = "unet") -> list[str]:
    """Return the labels of a network's layers whose names have one of the endings.

    Args:
        network: the network.
        layers: endings of names.
        part: name of the network.
    """
    prefix = "" if part == "unet" else f"{part}."
    return [prefix + layer for layer in layers_of(network, tuple(layers))]
