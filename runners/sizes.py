"""How many bytes weights take, on the device and before they are there."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.safetensors_file import WeightsError, read_header
from models.store import Component
from runners.device import Device
from runners.estimators import ESTIMATOR_KINDS


def bytes_on(device: Device, component: Component) -> int:
    """Bytes of a component's weights in its precision on the device; 0 for a tokenizer."""
    dtype = torch.float32 if component.kind in ESTIMATOR_KINDS else device.dtype
    elements = sum(_elements(file) for file in component.path.glob("*.safetensors"))
    return elements * dtype.itemsize


def _elements(file: Path) -> int:
    """Numbers in a weight file; 0 if it is broken, which its loading will tell."""
    try:
        return sum(math.prod(span.shape) for span in read_header(file).values())
    except WeightsError:
        return 0


def size_of(component: Any) -> int:
    """Bytes of a network's weights; 0 for a tokenizer."""
    if not isinstance(component, nn.Module):
        return 0
    return sum(tensor.nbytes for tensor in (*component.parameters(), *component.buffers()))
