"""Contents of an adapter file: the layers that it changes in one model, and what is left out."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from models.conversion.detect_kind import detect_kind
from models.conversion.safetensors_io import (
    Shape,
    TensorEntry,
    WeightsError,
    read_header,
    read_metadata,
)
from models.lora.families import (
    UNSUPPORTED,
    Family,
    detect_family,
    find_misfit,
    input_columns,
    rank_of,
)
from models.lora.foreign_files import find_other_model
from models.lora.key_format import AdapterKey, parse_key
from models.lora.layer_table import LayerTable, TargetLayer
from models.lora.scale import AdapterSettings, adapter_settings

_FLOATS = frozenset({"F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2"})
# Roles whose tensors are not multiplied.
_OTHER_DTYPES = frozenset({"alpha", "other", *UNSUPPORTED})
_EMBEDDING = re.compile(r"(bundle_emb\.[^.]+)\..+")
_TEXT_LAYER = re.compile(r"attn2[._]to_k$")
_MAX_NAMED = 5
"""Maximum number of parts that a message names."""


@dataclass(frozen=True, slots=True)
class LayerTensors:
    """Tensors of a file that change one layer: names in the file by role, and the rank."""

    target: TargetLayer
    family: Family
    tensors: Mapping[str, str]
    rank: int | None


@dataclass(frozen=True, slots=True)
class AdapterContents:
    """Layers that an adapter changes in one model.

    `settings` are peft's by network. `left_out` has a reason for each part of the file that is not
    applied.
    """

    layers: tuple[LayerTensors, ...]
    settings: Mapping[str, AdapterSettings]
    left_out: Mapping[str, str]

    @property
    def warning(self) -> str | None:
        """One sentence on the parts that are left out, None without any."""
        if not self.left_out:
            return None
        named = [f"{part} ({reason})" for part, reason in self.left_out.items()]
        more = len(named) - _MAX_NAMED
        rest = f" and {more} more" if more > 0 else ""
        return f"not applied: {', '.join(named[:_MAX_NAMED])}{rest}"


def read_contents(path: Path, table: LayerTable) -> AdapterContents:
    """Match the tensors of an adapter file with the layers of a model.

    Args:
        path: a safetensors file.
        table: layers of the model.

    Raises:
        WeightsError: the file is unreadable, no adapter, for another model, or of families that
            are not applied. The message says which.
        OSError: the file cannot be read.
    """
    header, metadata = read_header(path), read_metadata(path)
    layers, left_out = _group(header, table)
    _refuse_other(path, header, layers, table)
    matched = []
    for target, tensors in layers.items():
        roles = frozenset(tensors)
        family = detect_family(roles)
        if family not in {"lora", "loha", "lokr", "full", "bias"}:
            left_out[target.label] = family
            continue
        shapes = {role: header[key].shape for role, key in tensors.items()}
        misfit = find_misfit(family, shapes, target.weight, target.bias)  # type: ignore[arg-type]
        if misfit is None:
            rank = rank_of(family, shapes)  # type: ignore[arg-type]
            matched.append(LayerTensors(target, family, tensors, rank))  # type: ignore[arg-type]
        else:
            left_out[target.label] = misfit
    if not matched:
        raise WeightsError(f"{path.name}: {_explain_nothing(header, left_out)}")
    settings = adapter_settings(metadata, table.parts)
    for part in dict.fromkeys(layer.target.part for layer in matched):
        for pattern in settings[part].ignored_patterns:
            left_out[f"alpha_pattern {pattern} of {part}"] = "such expressions are not evaluated"
    return AdapterContents(tuple(matched), settings, left_out)


def _group(
    header: Mapping[str, TensorEntry], table: LayerTable
) -> tuple[dict[TargetLayer, dict[str, str]], dict[str, str]]:
    """Return the tensors' names by layer and role, and the reasons for those left out."""
    layers: dict[TargetLayer, dict[str, str]] = defaultdict(dict)
    left_out: dict[str, str] = {}
    for name, entry in header.items():
        key = parse_key(name)
        if key is None:
            embedding = _EMBEDDING.fullmatch(name)
            subject, reason = (embedding[1], "an embedding") if embedding else (name, "unknown")
            left_out[subject] = reason
            continue
        target = _find_layer(key, table)
        if target is None:
            left_out[_full_name(name, key)] = "this model has no such layer"
        elif key.role not in _OTHER_DTYPES and entry.dtype not in _FLOATS:
            left_out[name] = f"its dtype is {entry.dtype}"
        elif key.role in layers[target]:
            left_out[name] = f"{target.label} has two of them"
        elif key.role == "other":
            left_out[name] = "such tensors are not supported"
        else:
            layers[target][key.role] = name
    return {target: tensors for target, tensors in layers.items() if tensors}, left_out


def _find_layer(key: AdapterKey, table: LayerTable) -> TargetLayer | None:
    # Files without a prefix have one network, the UNet, or transformers' names of an encoder.
    for part in (key.part,) if key.part else table.parts:
        target = table.find(part, key.layer)
        if target is not None:
            return target
    return None


def _full_name(name: str, key: AdapterKey) -> str:
    """Return a tensor's name up to the end of its layer's."""
    end = name.find(key.layer.rpartition(".")[2])
    return name[: end + len(key.layer.rpartition(".")[2])] if end >= 0 else name


def _refuse_other(
    path: Path,
    header: Mapping[str, TensorEntry],
    layers: Mapping[TargetLayer, Mapping[str, str]],
    table: LayerTable,
) -> None:
    """Raise WeightsError for an adapter of another model, and for a file that is no adapter."""
    keys = {name: key for name in header if (key := parse_key(name)) is not None}
    if not any(key.role not in {"alpha", "bias", "up_bias", "other"} for key in keys.values()):
        raise WeightsError(f"{path.name}: {_describe_other(header)}")
    if any("lllite_" in name for name in keys):
        raise WeightsError(f"{path.name}: {_describe_other(header)}")
    widths = [width for width in _text_widths(header, keys) if width != table.text_width]
    model = find_other_model(keys, widths)
    if model is not None:
        raise WeightsError(
            f"{path.name}: a LoRA for {model}; this service needs one that was trained for SDXL"
        )
    if widths:
        raise WeightsError(
            f"{path.name}: a LoRA for a model whose text embeddings have {widths[0]} channels; "
            f"this model's have {table.text_width}"
        )


def _text_widths(
    header: Mapping[str, TensorEntry], keys: Mapping[str, AdapterKey]
) -> Iterator[int]:
    """Yield the channels of the text embeddings that the adapter's cross-attention layers read."""
    layers: dict[str, dict[str, Shape]] = defaultdict(dict)
    for name, key in keys.items():
        if _TEXT_LAYER.search(key.layer):
            layers[key.layer][key.role] = header[name].shape
    for shapes in layers.values():
        columns = input_columns(shapes)
        if columns is not None:
            yield columns


def _describe_other(header: Mapping[str, TensorEntry]) -> str:
    kind = detect_kind(header)
    if kind is None or kind.place == "loras":
        return "no LoRA: none of its tensors belongs to an adapter"
    return kind.describe("a LoRA")


def _explain_nothing(header: Mapping[str, TensorEntry], left_out: Mapping[str, str]) -> str:
    """Return why no part of an adapter can be applied."""
    reasons = list(dict.fromkeys(left_out.values()))
    first = next(iter(left_out))
    families = [reason for reason in reasons if reason.endswith("is not applied")]
    if families:
        return (
            f"{families[0].removesuffix(' is not applied')} is not applied; "
            "LoRA, LoCon, LoHa, LoKr, DoRA and full differences are"
        )
    return f"none of its {len(header)} tensors fits this model; {first}: {left_out[first]}"
