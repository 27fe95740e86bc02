"""Families of adapters: which tensors a layer's change consists of, and whether they fit the layer.

LoRA (arXiv:2106.09685), LoHa, LoKr and LoCon (LyCORIS, arXiv:2309.14859), DoRA (arXiv:2402.09353),
and plain differences of weights, biases and normalisations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

from models.conversion.safetensors_io import Shape

Family = Literal["lora", "loha", "lokr", "full", "bias"]
Shapes = Mapping[str, Shape]
"""Shapes of a layer's tensors, by role."""

UNSUPPORTED = {"oft": "OFT or BOFT", "glora": "GLoRA", "ia3": "IA3"}
"""Families that are recognised but not applied, by the role of their tensors."""


def detect_family(roles: frozenset[str]) -> Family | str:
    """Return the family of a layer's tensors, or the reason why they are none.

    Args:
        roles: roles of the tensors, as `parse_key` returns them.
    """
    for role, name in UNSUPPORTED.items():
        if role in roles:
            return f"{name} is not applied"
    families: list[Family] = []
    if roles & {"down", "up", "mid"}:
        families.append("lora")
    if any(role.startswith("hada_") for role in roles):
        families.append("loha")
    if any(role.startswith("lokr_") for role in roles):
        families.append("lokr")
    if "diff" in roles:
        families.append("full")
    if len(families) > 1:
        return f"{' and '.join(families)} at once"
    if families:
        return families[0]
    return "bias" if "bias" in roles else "its factors are missing"


def rank_of(family: Family, shapes: Shapes) -> int | None:
    """Return the rank that alpha is divided by, None for a change without alpha.

    Args:
        family: the family of the layer's tensors.
        shapes: shapes of the tensors, complete and of the right number of dimensions.
    """
    if family == "lora":
        return shapes["down"][0]
    if family == "loha":
        return shapes["hada_w1_b"][0]
    if family == "lokr":
        # The second factor's rank precedes; a change of two whole factors has none.
        for role in ("lokr_w2_b", "lokr_w1_b"):
            if role in shapes:
                return shapes[role][0]
    return None


def find_misfit(family: Family, shapes: Shapes, weight: Shape, bias: Shape | None) -> str | None:
    """Return why a layer's tensors cannot change the layer, None if they can.

    Args:
        family: the family of the tensors.
        shapes: shapes of the tensors, alpha's too, by role.
        weight: shape of the layer's weight.
        bias: shape of its bias, None without one.
    """
    for role in ("bias", "up_bias"):
        if role in shapes and bias is None:
            return "the layer has no bias"
        if role in shapes and bias is not None and math.prod(shapes[role]) != bias[0]:
            return _mismatch(shapes[role], bias)
    if family == "bias":
        return None
    if lacking := [role for role in _required(family, shapes) if role not in shapes]:
        return f"{', '.join(lacking)} missing"
    if any(0 in shape for shape in shapes.values()):
        return "it has an empty tensor"
    if "alpha" in shapes and math.prod(shapes["alpha"]) != 1:
        return f"its alpha has the shape {list(shapes['alpha'])}"
    if misfit := _magnitude_misfit(shapes, weight):
        return misfit
    if family == "full":
        return (
            None
            if _squeeze(shapes["diff"]) == _squeeze(weight)
            else _mismatch(shapes["diff"], weight)
        )
    if len(weight) == 1:
        return f"{family} cannot change a normalisation"
    size = _SIZES[family](shapes)
    if size is None:
        return "its factors do not fit each other"
    wanted = weight[0], math.prod(weight[1:])
    return None if size == wanted else _mismatch(size, wanted)


def input_columns(shapes: Shapes) -> int | None:
    """Return the columns of the weight that a linear layer's tensors change, None if unknown.

    Args:
        shapes: shapes of the tensors, by role.
    """
    family = detect_family(frozenset(shapes))
    if family == "full":
        return shapes["diff"][1] if len(shapes["diff"]) > 1 else None
    if family not in _SIZES or any(role not in shapes for role in _required(family, shapes)):  # type: ignore[arg-type]
        return None
    size = _SIZES[family](shapes)
    return None if size is None else size[1]


def _required(family: Family, shapes: Shapes) -> list[str]:
    if family == "lora":
        return ["down", "up"]
    if family == "loha":
        return ["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"] + (
            ["hada_t1", "hada_t2"] if shapes.keys() & {"hada_t1", "hada_t2"} else []
        )
    if family == "lokr":
        return [
            role
            for factor in ("lokr_w1", "lokr_w2")
            if factor not in shapes
            for role in (f"{factor}_a", f"{factor}_b")
        ]
    return []


def _lora_size(shapes: Shapes) -> tuple[int, int] | None:
    """Return rows and columns of up @ down, None if the factors do not fit each other."""
    down, up, mid = shapes["down"], shapes["up"], shapes.get("mid")
    if len(down) < 2 or len(up) < 2:
        return None
    if mid is None:
        fits = math.prod(up[1:]) == down[0]
        return (up[0], math.prod(down[1:])) if fits else None
    fits = len(mid) == 4 and math.prod(up[1:]) == mid[0] and mid[1] == down[0]
    return (up[0], math.prod(down[1:]) * mid[2] * mid[3]) if fits else None


def _loha_size(shapes: Shapes) -> tuple[int, int] | None:
    sizes = set()
    for factor in ("1", "2"):
        a, b = shapes[f"hada_w{factor}_a"], shapes[f"hada_w{factor}_b"]
        core = shapes.get(f"hada_t{factor}")
        if len(a) != 2 or len(b) != 2:
            return None
        if core is None:
            if a[1] != b[0]:
                return None
            sizes.add((a[0], b[1]))
        else:
            if len(core) != 4 or core[0] != a[0] or core[1] != b[0]:
                return None
            sizes.add((a[1], b[1] * core[2] * core[3]))
    return sizes.pop() if len(sizes) == 1 else None


def _lokr_size(shapes: Shapes) -> tuple[int, int] | None:
    rows = columns = 1
    for factor in ("lokr_w1", "lokr_w2"):
        size = _lokr_factor(shapes, factor)
        if size is None:
            return None
        rows, columns = rows * size[0], columns * size[1]
    return rows, columns


def _lokr_factor(shapes: Shapes, factor: str) -> tuple[int, int] | None:
    whole = shapes.get(factor)
    if whole is not None:
        return (whole[0], math.prod(whole[1:])) if len(whole) >= 2 else None
    a, b, core = shapes[f"{factor}_a"], shapes[f"{factor}_b"], shapes.get(factor.replace("w", "t"))
    if core is None:
        fits = len(a) == 2 and len(b) >= 2 and a[1] == b[0]
        return (a[0], math.prod(b[1:])) if fits else None
    fits = len(a) == len(b) == 2 and len(core) == 4 and core[0] == a[0] and core[1] == b[0]
    return (a[1], b[1] * core[2] * core[3]) if fits else None


_SIZES: Mapping[str, Callable[[Shapes], tuple[int, int] | None]] = {
    "lora": _lora_size, "loha": _loha_size, "lokr": _lokr_size,
}  # fmt: skip


def _magnitude_misfit(shapes: Shapes, weight: Shape) -> str | None:
    ones = (1,) * (len(weight) - 2)
    shape = shapes.get("magnitude")
    if shape is not None:
        # LyCORIS' two axes: one magnitude per output, or one per input channel.
        rows = {(weight[0],), (weight[0], 1, *ones)}
        if len(weight) == 1 or shape not in rows | {(1, weight[1], *ones)}:
            return _mismatch(shape, weight)
    # peft's is always one per output, whatever its shape.
    shape = shapes.get("row_magnitude")
    if shape is not None and math.prod(shape) != weight[0]:
        return _mismatch(shape, weight)
    return None


def _squeeze(shape: Shape) -> Shape:
    """Drop the trailing dimensions of length one."""
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _mismatch(found: Shape, wanted: Shape) -> str:
    return f"shape {list(found)} where {list(wanted)} is expected"
