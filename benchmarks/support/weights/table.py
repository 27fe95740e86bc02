"""All groups of kinds of weight files. A new group is a function in a module of its own."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.support.weights.adapter_families import text_kinds, unet_kinds
from benchmarks.support.weights.adapter_left_out import left_out_kinds
from benchmarks.support.weights.adapter_numbers import dtype_kinds, scale_kinds, strength_kinds
from benchmarks.support.weights.adapter_refusals import refusal_kinds
from benchmarks.support.weights.adapter_spellings import spelling_kinds
from benchmarks.support.weights.components import component_kinds, component_refusals
from benchmarks.support.weights.controlnets import controlnet_kinds, controlnet_refusals
from benchmarks.support.weights.kind import Kind
from benchmarks.support.weights.references import library_kinds

GROUPS: dict[str, Callable[[], list[Kind]]] = {
    "adapters: families": unet_kinds,
    "adapters: text encoders": text_kinds,
    "adapters: scales": scale_kinds,
    "adapters: spellings": spelling_kinds,
    "adapters: written by libraries": library_kinds,
    "adapters: dtypes": dtype_kinds,
    "adapters: strengths": strength_kinds,
    "adapters: parts left out": left_out_kinds,
    "adapters: refused": refusal_kinds,
    "components: applied": component_kinds,
    "components: refused": component_refusals,
    "controlnets: applied": controlnet_kinds,
    "controlnets: refused": controlnet_refusals,
}
