"""8-bit checkpoints, with and without scales, are widened as ComfyUI computes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from models.conversion.component import Dtype, convert_file, weight_name
from models.conversion.safetensors_io import WeightsError
from models.conversion.tensor_copy import cast
from tests.support.files.single_files import WEIGHTS, Tensors, demo_tensors, ldm_tensors, write

FLOATS = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
_START = "model.diffusion_model."


def quantized(dtype: torch.dtype, suffix: str | None) -> tuple[Tensors, Tensors]:
    """The UNet as 8-bit floats, and the float32 values that they stand for, in ldm names."""
    stored: Tensors = {}
    meant: Tensors = {}
    for name, tensor in ldm_tensors("unet").items():
        is_layer = tensor.ndim == 2 and name.endswith(".weight")
        scale = tensor.float().abs().max() / 400 if suffix and is_layer else torch.tensor(1.0)
        stored[name] = (tensor.float() / scale).to(dtype)
        meant[name] = stored[name].float() * scale
        if suffix and is_layer:
            stored[name.removesuffix(".weight") + suffix] = scale
    return stored, meant


def converted(tmp_path: Path, tensors: Tensors, dtype: Dtype | None) -> Tensors:
    file = write(tmp_path / "unet.safetensors", tensors)
    convert_file("unet", file, tmp_path / "made", dtype, WEIGHTS / "unet" / "config.json")
    return load_file(tmp_path / "made" / weight_name("unet"))


@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16"])
@pytest.mark.parametrize("suffix", [None, ".scale_weight", ".weight_scale"])
@pytest.mark.parametrize("name", list(FLOATS))
def test_eight_bit_weights_are_widened(
    tmp_path: Path, name: str, suffix: str | None, dtype: Dtype | None
) -> None:
    stored, meant = quantized(FLOATS[name], suffix)
    if suffix:
        stored[f"{_START}scaled_fp8"] = torch.zeros(2, dtype=FLOATS[name])
        stored[f"{_START}out.2.scale_input"] = torch.tensor(3.0)
        stored[f"{_START}out.2.comfy_quant"] = torch.zeros(9, dtype=torch.uint8)
    ours = converted(tmp_path, stored, dtype)
    target = getattr(torch, dtype or "float16")
    assert ours.keys() == demo_tensors("unet").keys()
    convolution, linear = "conv_in.weight", "mid_block.attentions.0.proj_in.weight"
    for own, source in ((convolution, "input_blocks.0.0"), (linear, "middle_block.1.proj_in")):
        expected = meant[f"{_START}{source}.weight"].to(target)
        assert torch.equal(ours[own], expected)


@pytest.mark.parametrize("name", list(FLOATS))
@pytest.mark.parametrize("scale", [1.0, 0.0371])
@pytest.mark.parametrize("target", ["F16", "BF16"])
def test_every_eight_bit_float_is_cast_as_torch_does(name: str, scale: float, target: str) -> None:
    every = torch.arange(256, dtype=torch.uint8)
    every = every[every.view(FLOATS[name]).float().isfinite()]
    dtype = {"F16": torch.float16, "BF16": torch.bfloat16}[target]
    got = torch.frombuffer(
        bytearray(cast(memoryview(every.numpy()), name, target, scale)), dtype=dtype
    )
    expected = (every.view(FLOATS[name]).float() * torch.tensor(scale)).to(dtype)
    assert torch.equal(got, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"out.2.weight_scale": torch.ones(4)}, "out.2.weight has 4 scales; only one per tensor"),
        ({"out.2.weight_scale": torch.tensor(torch.nan)}, "weight_scale is nan"),
        ({"out.2.weight_scale_2": torch.tensor(1.0)}, r"quantized \(.*weight_scale_2\)"),
        ({"out.2.weight": torch.zeros(4, 48, 3, 3, dtype=torch.int8)}, "has I8: quantized"),
        ({"out.2.bias": torch.full((4,), torch.nan).to(torch.float8_e4m3fn)}, "NaN or infinity"),
    ],
)
def test_other_quantizations_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    tensors = ldm_tensors("unet") | {_START + name: value for name, value in change.items()}
    with pytest.raises(WeightsError, match=message):
        converted(tmp_path, tensors, None)
