"""NaN and infinity in files of every dtype."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.conversion.finite import is_finite, require_finite
from models.conversion.safetensors_io import WeightsError

FLOATS = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn,
    torch.float8_e5m2,
]  # fmt: skip


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", FLOATS)
def test_values_that_are_not_finite_are_named(
    dtype: torch.dtype, value: float, tmp_path: Path
) -> None:
    if dtype == torch.float8_e4m3fn:
        value = float("nan")  # the format has no infinity
    numbers = torch.linspace(-4, 4, 3001).to(dtype)
    path = tmp_path / "own.safetensors"
    save_file({"a": numbers, "b": numbers.clone()}, path)
    require_finite(path)
    numbers[1234] = torch.tensor(value).to(dtype)
    save_file({"a": torch.ones(4), "b.weight": numbers}, path)
    with pytest.raises(WeightsError, match=r"own.safetensors: b.weight has NaN or infinity"):
        require_finite(path)


@pytest.mark.parametrize("dtype", FLOATS)
def test_largest_and_smallest_numbers_are_finite(dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    numbers = torch.tensor([limits.max, limits.min, limits.tiny, 0.0, -0.0]).to(dtype)
    names = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16",
             torch.bfloat16: "BF16", torch.float8_e4m3fn: "F8_E4M3",
             torch.float8_e5m2: "F8_E5M2"}  # fmt: skip
    if dtype == torch.float64:
        numbers = torch.tensor([limits.max, limits.min, 0.0], dtype=dtype)
    assert is_finite(numbers.view(torch.uint8).numpy().tobytes(), names[dtype])


def test_integers_are_finite() -> None:
    assert is_finite(b"\xff" * 8, "I64")
