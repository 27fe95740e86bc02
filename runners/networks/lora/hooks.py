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

ChangeFn = Callable[[str, nn.Module, torch.Tensor, torch.Tensor], bool]

_numbers = itertools.count()
_layers: dict[
    int, tuple[weakref.ref[nn.Module], list[tuple[weakref.WeakMethod[ChangeFn], str]]]
] = {}


def add_output_hook(module: nn.Module, change: weakref.WeakMethod[ChangeFn], layer: str) -> None:
    """Let `change` modify the output of a layer in place at every call.

    Args:
        module: a linear layer or a convolution.
        change: a weakly referenced bound method from the layer's name, the module, its input and
            its output to whether it has modified the output. The hook ignores it after its owner
            is freed. The first change that returns True is the only one of a call.
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
        _change_output(output, inputs[0], module.hook_id)
    else:
        _change(int(module.hook_id), inputs[0], output)
    return output


def _change(number: int, inputs: torch.Tensor, output: torch.Tensor) -> None:
    reference, changes = _layers[number]
    module = reference()
    for method, layer in changes:
        change = method()
        if change is not None and module is not None and change(layer, module, inputs, output):
            return


@torch.library.custom_op("experimance::change_output", mutates_args={"output"})
def _change_output(output: torch.Tensor, inputs: torch.Tensor, number: torch.Tensor) -> None:
    _change(int(number), inputs, output)


@_change_output.register_fake
def _(output: torch.Tensor, inputs: torch.Tensor, number: torch.Tensor) -> None:
    """Do nothing: the operator returns no tensor."""
