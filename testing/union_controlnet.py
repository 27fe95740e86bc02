"""A union ControlNet made of the demo set's ControlNet and random union modules."""

from __future__ import annotations

import inspect
import math
from pathlib import Path

import torch
from diffusers import ControlNetModel, ControlNetUnionModel
from torch import nn

_DEMO = Path(__file__).parent.parent / "models" / "demo" / "weights" / "controlnet"
_TYPES = 8


def demo_union() -> ControlNetUnionModel:
    """Return a new union ControlNet, float32 on the CPU, in eval mode.

    It has the eight control types of the published network, and its random modules change pictures
    visibly.
    """
    plain = ControlNetModel.from_pretrained(_DEMO, dtype=torch.float32)
    width = plain.config.block_out_channels[0]
    known = inspect.signature(ControlNetUnionModel.__init__).parameters
    shared = {key: value for key, value in plain.config.items() if key in known}
    union = ControlNetUnionModel(
        **shared,
        num_control_type=_TYPES,
        num_trans_channel=width,
        num_proj_channel=width,
        num_trans_head=4,
        num_trans_layer=2,
    )
    incomplete = union.load_state_dict(plain.state_dict(), strict=False)
    generator = torch.Generator().manual_seed(8)
    for name in incomplete.missing_keys:
        tensor = union.get_parameter(name)
        if name.endswith((".ln_1.weight", ".ln_2.weight")):
            continue
        scale = 1.0 if tensor.dim() == 1 else 1.0 / math.sqrt(tensor.shape[1])
        nn.init.normal_(tensor, std=0.5 * scale, generator=generator)
    return union.eval().requires_grad_(False)
