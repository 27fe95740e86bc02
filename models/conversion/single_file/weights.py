"""Tensors of a weight file with their scales; quantization's auxiliary tensors are left out.

ComfyUI's 8-bit checkpoints have a scale beside each weight, `X.scale_weight` or, in newer files,
`X.weight_scale`: weight = float8 * scale. Their further tensors describe the quantization.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from models.conversion.safetensors_io import (
    ITEM_BYTES,
    TensorEntry,
    WeightsError,
    read_header,
    read_pieces,
)
from models.conversion.tensor_copy import EIGHT_BIT_FLOATS, FLOATING, TensorSlice, to_float32

_SCALES = (".scale_weight", ".weight_scale")
_MARKS = ("scaled_fp8",)
# Scales of the layers' inputs, and descriptions of the quantization, change no weight.
_AUXILIARY = (".scale_input", ".input_scale", ".comfy_quant")
# Scales of smaller blocks, and other tensors without which a weight cannot be computed.
_UNSUPPORTED = (".weight_scale_2", ".absmax", ".quant_map", ".qweight", ".weight_codebook")


def read_weights(paths: Iterable[Path]) -> dict[str, TensorSlice]:
    """Return the tensors of a file or of shards by name, with their scales.

    Raises:
        WeightsError: A file is invalid, a tensor occurs twice, or a quantization other than 8-bit
            floats with one scale per tensor was used.
        OSError: A file cannot be read.
    """
    found: dict[str, TensorSlice] = {}
    for path in paths:
        header = read_header(path)
        scales = _read_scales(path, header)
        for name, entry in header.items():
            if _is_auxiliary(name):
                continue
            if name in found:
                raise WeightsError(f"{path.name}: {name} occurs twice")
            scale = scales.get(name, 1.0)
            found[name] = TensorSlice(
                path, entry.dtype, entry.shape, entry.start, scale=scale, name=name
            )
    return found


def require_floats(slices: Mapping[str, TensorSlice]) -> None:
    """Check that a component's tensors are floating-point numbers.

    Raises:
        WeightsError: One has integers, as quantized weights have.
    """
    for name, piece in slices.items():
        if piece.dtype not in FLOATING:
            raise WeightsError(
                f"{piece.path.name}: {name} has {piece.dtype}: quantized weights, of which only "
                "8-bit floats are read; give the float16 or float8 file"
            )


def _is_auxiliary(name: str) -> bool:
    return name.rpartition(".")[2] in _MARKS or name.endswith((*_SCALES, *_AUXILIARY))


def _read_scales(path: Path, header: Mapping[str, TensorEntry]) -> dict[str, float]:
    """Return the factors of a file's tensors by the tensor's name."""
    scales: dict[str, float] = {}
    for name, entry in header.items():
        if name.endswith(_UNSUPPORTED):
            raise WeightsError(
                f"{path.name}: quantized ({name}) in a way that is not read; give the float16 or "
                "float8 file"
            )
        suffix = next((each for each in _SCALES if name.endswith(each)), None)
        if suffix is None:
            continue
        weight = f"{name.removesuffix(suffix)}.weight"
        if weight in header:
            _check_scaled(path, weight, header[weight], entry)
            scales[weight] = _read_number(path, name, entry)
    return scales


def _check_scaled(path: Path, name: str, weight: TensorEntry, scale: TensorEntry) -> None:
    if weight.dtype not in FLOATING or scale.dtype not in FLOATING - EIGHT_BIT_FLOATS:
        raise WeightsError(
            f"{path.name}: {name} has {weight.dtype} with scales of {scale.dtype}; of quantized "
            "weights only 8-bit floats are read: give the float16 or float8 file"
        )
    if math.prod(scale.shape) != 1:
        raise WeightsError(
            f"{path.name}: {name} has {math.prod(scale.shape)} scales; only one per tensor is "
            "read: give the float16 file"
        )


def _read_number(path: Path, name: str, entry: TensorEntry) -> float:
    with path.open("rb") as file:
        (piece,) = read_pieces(file, path, entry.start, entry.size, ITEM_BYTES[entry.dtype])
        number = float(to_float32(piece, entry.dtype)[0])
    if not np.isfinite(number):
        raise WeightsError(f"{path.name}: {name} is {number}, which is no scale")
    return number
