"""Summary of an adapter's layers: families, ranks and alphas."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from models.conversion.safetensors_io import TensorEntry, read_pieces
from models.conversion.tensor_copy import FLOATING, to_float32
from models.lora.contents import AdapterContents, LayerTensors

_FAMILIES = {
    "lora": "LoRA", "loha": "LoHa", "lokr": "LoKr", "full": "full differences", "bias": "biases",
}  # fmt: skip
_MAGNITUDES = frozenset({"magnitude", "row_magnitude"})
_MAX_VALUES = 6


def count_layers(contents: AdapterContents) -> dict[str, int]:
    """Return the number of changed layers by network."""
    return dict(Counter(layer.target.part for layer in contents.layers))


def describe_layers(
    path: Path, header: Mapping[str, TensorEntry], contents: AdapterContents
) -> dict[str, str]:
    """Return families, ranks and alphas of an adapter.

    Args:
        path: the file.
        header: its header.
        contents: its layers.

    Raises:
        WeightsError: the file ends before a tensor.
        OSError: the file cannot be read.
    """
    found = {"families": ", ".join(dict.fromkeys(map(_family, contents.layers)))}
    if ranks := {layer.rank for layer in contents.layers if layer.rank is not None}:
        found["ranks"] = _list_numbers(ranks)
    if alphas := _read_alphas(path, header, contents):
        found["alphas"] = _list_numbers(alphas)
    return found


def _family(layer: LayerTensors) -> str:
    name = _FAMILIES[layer.family]
    if "mid" in layer.tensors:
        name = "LoCon in Tucker form"
    elif layer.family == "lora" and len(layer.target.weight) > 2:
        name = "LoCon"
    return f"DoRA with {name}" if layer.tensors.keys() & _MAGNITUDES else name


def _read_alphas(
    path: Path, header: Mapping[str, TensorEntry], contents: AdapterContents
) -> set[float]:
    """Return the alphas in the file's tensors, or in its settings if it has no such tensors."""
    alphas = set()
    with path.open("rb") as file:
        for layer in contents.layers:
            entry = header.get(layer.tensors.get("alpha", ""))
            if entry is None or entry.dtype not in FLOATING or math.prod(entry.shape) != 1:
                continue
            for piece in read_pieces(file, path, entry.start, entry.size, entry.size):
                alphas.add(float(to_float32(piece, entry.dtype)[0]))
    settings = (each.alpha for each in contents.settings.values())
    return alphas or {alpha for alpha in settings if alpha is not None}


def _list_numbers(values: Iterable[float]) -> str:
    ordered = sorted(values)
    if len(ordered) > _MAX_VALUES:
        return f"{ordered[0]:g} to {ordered[-1]:g}"
    return ", ".join(f"{value:g}" for value in ordered)
