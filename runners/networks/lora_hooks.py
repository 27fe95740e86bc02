"""Output hooks through which adapters change a layer's output.

A compiled block must not depend on the active adapters, because every set of LoRAs would trigger a
recompilation. In compiled code the change is therefore a custom operator that is opaque to the
compiler. The layer's number is a tensor, because a constant would give every block its own graph.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

DeltaFn = Callable[[str, nn.Module, torch.Tensor], torch.Tensor | None]

_numbers = itertools.count()
_layers: dict[
    int, tuple[weakref.ref[nn.Module], list[tuple[weakref.WeakMethod[DeltaFn], str]]]
] = {}


def add_output_hook(module: nn.Module, change: weakref.WeakMethod[DeltaFn], layer: str) -> None:
    """Add the result of `change` to the output of a layer at every call.

    Args:
        module: a linear layer or a convolution.
        change: a weakly referenced bound method from the layer's name, the module and its input to
            the delta or None. The hook ignores it after its owner is freed.
        layer: the layer's name.
    """
    number = getattr(module, "hook_id", None)
    if number is None:
        module.hook_id = number = torch.tensor(next(_numbers))
        _layers[int(number)] = (weakref.ref(module), [])
        weakref.finalize(module, _layers.pop, int(number), None)
        module.register_forward_hook(_hook)
    _layers[int(number)][1].append((change, layer))


def _hook(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
    if torch.compiler.is_compiling():
        _add_change(output, inputs[0], module.hook_id)
        return output
    delta = _compute_delta(int(module.hook_id), inputs[0])
    return output if delta is None else output + delta


def _compute_delta(number: int, inputs: torch.Tensor) -> torch.Tensor | None:
    reference, changes = _layers[number]
    module = reference()
    for method, layer in changes:
        change = method()
        if change is not None and module is not None:
            delta = change(layer, module, inputs)
            if delta is not None:
                return delta
    return None


@torch.library.custom_op("experimance::add_change", mutates_args={"output"})
def _add_change(output: torch.Tensor, inputs: torch.Tensor, number: torch.Tensor) -> None:
    delta = _compute_delta(int(number), inputs)
    if delta is not None:
        output.add_(delta)


@_add_change.register_fake
def _(output: torch.Tensor, inputs: torch.Tensor, number: torch.Tensor) -> None:
    """Do nothing: the operator returns no tensor."""
