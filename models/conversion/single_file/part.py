"""Search for a component's tensors in a weight file, and the configuration that they fit."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from models.conversion.config import SDXL, canonicalize_config
from models.conversion.detect_kind import detect_non_sdxl
from models.conversion.safetensors_io import ITEM_BYTES, Shape, WeightsError
from models.conversion.sdxl_key_map import KeyMapping
from models.conversion.single_file.identify import (
    describe_absence,
    describe_foreign,
    describe_mismatch,
)
from models.conversion.single_file.layouts import LAYOUTS, Config, Layout, with_projection_as_named
from models.conversion.single_file.prediction import STATEMENTS
from models.conversion.single_file.taesd_key_map import derive_tiny_config
from models.conversion.single_file.weights import require_floats
from models.conversion.tensor_copy import TensorSlice

Candidates = Callable[[Mapping[str, Shape]], list[tuple[Config, str]]]
"""Function from the shapes of a component's tensors, by name without prefix, to the configurations
that it may have, each with the name of its owner."""

_GUIDANCE = ("time_embed.cond_proj.weight", "time_embedding.cond_proj.weight")
# Names under which a tensor that SDXL lacks would be part of the network.
_ROOTS = {
    "unet": ("",),
    "vae": ("encoder.", "decoder.", "quant_conv.", "post_quant_conv."),
    "text_encoder": ("text_model.", "transformer.resblocks."),
    "text_encoder_2": ("text_model.", "transformer.resblocks."),
    "tiny_decoder": ("decoder.",),
}
_IGNORED = ("position_ids", "logit_scale", "attn_mask")


@dataclass(frozen=True, slots=True)
class LocatedPart:
    """A component in a file: its canonical configuration and its tensors by canonical name."""

    config: Config
    slices: Mapping[str, TensorSlice]


@dataclass(frozen=True, slots=True)
class _Found:
    """A component's tensors in a file, by their names in a spelling, without prefix."""

    layout: Layout
    prefix: str
    slices: Mapping[str, TensorSlice]

    @property
    def shapes(self) -> dict[str, Shape]:
        return {name: piece.shape for name, piece in self.slices.items()}


def locate_part(
    kind: str,
    weights: Mapping[str, TensorSlice],
    candidates: Candidates,
    is_checkpoint: bool = False,
) -> LocatedPart:
    """Return a component of a weight file; all of its names and shapes are checked.

    Args:
        kind: kind of the component, a key of LAYOUTS.
        weights: tensors of the file by name, at least one.
        candidates: function that returns the configurations that the component may have.
        is_checkpoint: whether the file was given as a whole checkpoint.

    Raises:
        WeightsError: the file has no such component, or one of another model or size, or an
            incomplete one. The message says what it is and what to do.
    """
    file = next(iter(weights.values())).path.name
    found = _find(kind, weights)
    if found is None:
        raise WeightsError(f"{file}: {describe_absence(kind, weights, is_checkpoint)}")
    problem = describe_foreign(kind, weights) or ""
    for config, owner in [] if problem else candidates(found.shapes):
        mappings = _mappings(found, config)
        wrong = _find_problem(found, mappings, owner) or _find_surplus(kind, found, mappings)
        # The first configuration is the likeliest.
        problem = problem or wrong
        if not wrong:
            slices = {move.target: _slice(found.slices[move.source], move) for move in mappings}
            require_floats(slices)
            return LocatedPart(config, slices)
    if is_checkpoint and (other := detect_non_sdxl(weights)) is not None:
        problem = f"not an SDXL checkpoint but {other}"
    else:
        problem = describe_mismatch(kind, found.shapes) or problem
    raise WeightsError(f"{file}: {problem}")


def fixed(config: Config) -> Candidates:
    """Return the candidates of a component whose configuration is known."""
    return lambda shapes: [(config, "its configuration")]


def derived(kind: str, base: Config | None = None, configs: Path = SDXL) -> Candidates:
    """Return the candidates of a component without a configuration of its own.

    Args:
        kind: kind of the component.
        base: canonical configuration of the component that this one replaces. It is tried before
            SDXL's, because shapes do not determine every setting.
        configs: folder with SDXL's configuration of each part, `<part>.json`.
    """

    def candidates(shapes: Mapping[str, Shape]) -> list[tuple[Config, str]]:
        settings = _settings_of_shapes(kind, shapes)
        if kind == "tiny_decoder":
            return [(canonicalize_config(kind, {**(base or {}), **settings}), "a tiny decoder")]
        own = [] if base is None else [({**base, **settings}, "the component that it replaces")]
        published = {**_published(configs / f"{kind}.json"), **settings}
        every = [*own, (published, "SDXL")]
        return [(canonicalize_config(kind, config), owner) for config, owner in every]

    return candidates


def _settings_of_shapes(kind: str, shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Return the settings in which components of equal names differ, from their shapes."""
    if kind == "tiny_decoder":
        return derive_tiny_config(shapes) or {}
    if kind == "unet":
        guidance = next((shapes[name] for name in _GUIDANCE if name in shapes), ())
        return {"time_cond_proj_dim": guidance[1] if len(guidance) > 1 else None}
    return {}


def _find(kind: str, weights: Mapping[str, TensorSlice]) -> _Found | None:
    for layout in LAYOUTS[kind]:
        for prefix in layout.prefixes:
            slices = {
                layout.rename(name.removeprefix(prefix)): piece
                for name, piece in weights.items()
                if name.startswith(prefix)
            }
            if layout.mark in slices:
                return _Found(layout, prefix, {**_outer_projection(prefix, weights), **slices})
    return None


def _outer_projection(prefix: str, weights: Mapping[str, TensorSlice]) -> dict[str, TensorSlice]:
    """Return the text projection that stands beside the model `transformer` instead of in it."""
    outer = prefix.removesuffix("transformer.")
    names = ("text_projection", "text_projection.weight")
    return {name: weights[outer + name] for name in names if outer + name in weights}


@cache
def _published(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def _mappings(found: _Found, config: Config) -> list[KeyMapping]:
    try:
        return with_projection_as_named(found.layout.mappings(config), found.slices)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, WeightsError):
            raise
        # Settings of the replaced component that SDXL's networks do not have.
        return []


def _find_problem(found: _Found, mappings: Sequence[KeyMapping], owner: str) -> str:
    """Return what is wrong with the names and shapes, or an empty text."""
    for move in mappings:
        piece = found.slices.get(move.source)
        if piece is not None and piece.shape not in move.source_shapes:
            return (
                f"{found.prefix}{move.source} has the shape {list(piece.shape)} where {owner} has "
                f"{list(move.source_shapes[0])}; give a folder with its config.json"
            )
    missing = [move.source for move in mappings if move.source not in found.slices]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        return f"incomplete, without {found.prefix}{missing[0]}{more}"
    return "" if mappings else "its sizes cannot be checked; give a folder with its config.json"


def _find_surplus(kind: str, found: _Found, mappings: Sequence[KeyMapping]) -> str:
    """Return which tensor belongs to the network and is unknown, or an empty text.

    Without it, the network would be another one.
    """
    known = {move.source for move in mappings}
    for name in found.slices:
        is_part = name.startswith(_ROOTS[kind]) and not name.endswith(_IGNORED)
        if is_part and name not in known and name not in STATEMENTS:
            return f"not SDXL's {kind}, which has no {found.prefix}{name}"
    return ""


def _slice(piece: TensorSlice, move: KeyMapping) -> TensorSlice:
    row_bytes = math.prod(piece.shape[1:]) * ITEM_BYTES[piece.dtype]
    start = piece.start + move.first_row * row_bytes
    return replace(piece, shape=move.shape, start=start, transposed=move.transposed)
