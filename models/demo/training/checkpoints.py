"""Training state on disk, as safetensors with the step in the metadata.

Random state is not stored, because every step seeds its generators with its number.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


class Ema:
    """Exponential moving average of a module's parameters, warmed up over the first steps."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.shadow = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Update the average after optimiser step `step` (from 0)."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        parameters = [p.detach() for _, p in module.named_parameters()]
        torch._foreach_lerp_(list(self.shadow.values()), parameters, weight)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Overwrite the module's parameters with the average."""
        for name, parameter in module.named_parameters():
            parameter.copy_(self.shadow[name])


def save_state(
    path: Path, module: nn.Module, ema: Ema, optimiser: torch.optim.Optimizer, step: int
) -> None:
    """Write the training state atomically.

    Args:
        path: Checkpoint file; an existing one is replaced.
        module: Module in training.
        ema: Average of the module's parameters.
        optimiser: Optimiser of the module.
        step: Number of finished steps.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        tensors[f"module/{name}"] = parameter.detach()
        tensors[f"ema/{name}"] = ema.shadow[name]
        for key, value in optimiser.state.get(parameter, {}).items():
            tensors[f"optimiser/{key}/{name}"] = value
    partial = path.with_suffix(".partial")
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, partial, metadata={"step": str(step)})
    partial.replace(path)


@torch.no_grad()
def load_state(path: Path, module: nn.Module, ema: Ema, optimiser: torch.optim.Optimizer) -> int:
    """Restore the state that `save_state` wrote.

    Args:
        path: Checkpoint file.
        module: Module in training; modified in place.
        ema: Average of the module's parameters; modified in place.
        optimiser: Optimiser of the module; modified in place.

    Returns:
        The number of finished steps.
    """
    tensors = load_file(path)
    for name, parameter in module.named_parameters():
        parameter.copy_(tensors[f"module/{name}"])
        ema.shadow[name].copy_(tensors[f"ema/{name}"])
        # Parameters without gradients, such as SDXL's unused last text layer, have no moments.
        if f"optimiser/step/{name}" in tensors:
            keys = ("step", "exp_avg", "exp_avg_sq")
            optimiser.state[parameter] = {key: tensors[f"optimiser/{key}/{name}"] for key in keys}
    with safe_open(path, "pt") as file:
        return int(file.metadata()["step"])
