"""Layers whose output adapters may change.

A compiled block must not depend on which adapters are active, or each set of LoRAs would compile it
anew. So in compiled code the change is one operator that the compiler cannot look into; the
layer's number is a tensor, because numbers in the code would make every block another one.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Change = Callable[[str, nn.Module, torch.Tensor], torch.Tensor | None]

_numbers = itertools.count()
_layers: dict[int, tuple[weakref.ref[nn.Module], list[tuple[weakref.WeakMethod[Change], str]]]] = {}


def follow(module: nn.Module, change: weakref.WeakMethod[Change], layer: str) -> None:
    """Add what `change` says to the output of a layer, whenever it is called.

    Args:
        module: a linear layer or a convolution.
        change: a bound method, called with the layer's name, the module and its input; it is
            forgotten with its owner.
        layer: the name.
    """
    number = getattr(module, "adapter_number", None)
    if number is None:
        module.adapter_number = number = torch.tensor(next(_numbers))
        _layers[int(number)] = (weakref.ref(module), [])
        weakref.finalize(module, _layers.pop, int(number), None)
        module.register_forward_hook(_hook)
    _layers[int(number)][1].append((change, layer))


def _hook(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
    if torch.compiler.is_compiling():
        _add_change(output, inputs[0], module.adapter_number)
        return output
    change = _change(int(module.adapter_number), inputs[0])
    return output if change is None else output + change


def _change(number: int, given: torch.Tensor) -> torch.Tensor | None:
    reference, changes = _layers[number]
    module = reference()
    for method, layer in changes:
        change = method()
        if change is not None and module is not None:
            added = change(layer, module, given)
            if added is not None:
                return added
    return None


@torch.library.custom_op("experimance::add_change", mutates_args={"output"})
def _add_change(output: torch.Tensor, given: torch.Tensor, number: torch.Tensor) -> None:
    change = _change(int(number), given)
    if change is not None:
        output.add_(change)


@_add_change.register_fake
def _(output: torch.Tensor, given: torch.Tensor, number: torch.Tensor) -> None:
    """Nothing is made."""
