"""Conversion of ControlNets: a folder or one file, with diffusers' or the training code's names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.conversion.checkpoint import is_mark, slice_tensor
from models.conversion.component import weight_name
from models.conversion.config import CONFIG_NAME, SDXL, read_json, write_config
from models.conversion.controlnet_config import ADVICE, complete_config
from models.conversion.controlnet_key_map import (
    Config,
    controlnet_shapes,
    find_prefix,
    to_diffusers_names,
)
from models.conversion.detect_kind import detect_non_controlnet
from models.conversion.safetensors_io import (
    OnBytes,
    Shape,
    TensorEntry,
    WeightsError,
    read_header,
)
from models.conversion.sdxl_key_map import KeyMapping
from models.conversion.tensor_copy import FLOATING, Dtype, TensorSlice, write_slices

_KIND = "controlnet"


def convert_controlnet(
    files: Sequence[Path],
    target: Path,
    dtype: Dtype | None,
    unets: Mapping[str, Config],
    advance: OnBytes | None = None,
) -> None:
    """Write a ControlNet in canonical form.

    Args:
        files: its safetensors file or shards, and optionally its config.json. Without one, the
            configuration is derived from names and shapes.
        target: folder of the result; created if it does not exist.
        dtype: dtype of the written floating-point tensors; None keeps the files'.
        unets: configurations of the UNets that it must fit, by a label of their model. Without
            any, it must fit SDXL's.
        advance: function called with the number of bytes of each piece written.

    Raises:
        WeightsError: a file is corrupt, or of another kind, or incomplete, or has surplus tensors,
            or does not fit the UNets. The message says what it is.
        OSError: a file cannot be read or written.
    """
    config, tensors = _plan(files, unets)
    target.mkdir(parents=True, exist_ok=True)
    write_config(target, config)
    write_slices(target / weight_name(_KIND), tensors, dtype, advance)


def check_controlnet(files: Sequence[Path], unets: Mapping[str, Config]) -> Config:
    """Check a ControlNet as its conversion does, from the headers of its files.

    Args:
        files: its safetensors file or shards, and optionally its config.json.
        unets: configurations of the UNets that it must fit, as for `convert_controlnet`.

    Returns:
        Its canonical configuration.

    Raises:
        WeightsError: as for `convert_controlnet`.
        OSError: a file cannot be read.
    """
    return _plan(files, unets)[0]


def _plan(
    files: Sequence[Path], unets: Mapping[str, Config]
) -> tuple[Config, dict[str, TensorSlice]]:
    """Return a ControlNet's configuration and its tensors by diffusers' names, all checked."""
    weights = [file for file in files if file.suffix.lower() != ".json"]
    name = weights[0].name if len(weights) == 1 else _KIND
    tensors = _read_tensors(weights, name)
    content = next((read_json(_KIND, file) for file in files if file.name == CONFIG_NAME), None)
    shapes = {tensor: piece.shape for tensor, piece in tensors.items()}
    try:
        config = complete_config(content, shapes, unets or _published_unet())
    except WeightsError as error:
        raise WeightsError(f"{name}: {error}") from error
    _check_shapes(name, shapes, controlnet_shapes(config))
    return config, tensors


def _read_tensors(weights: Sequence[Path], name: str) -> dict[str, TensorSlice]:
    """Return the ControlNet's tensors by diffusers' names.

    A file with the prefix `control_model.` may hold other networks too, which are not read.

    Args:
        weights: the safetensors file or its shards.
        name: label of the files for messages.
    """
    found: dict[str, tuple[Path, Mapping[str, TensorEntry]]] = {}
    for path in weights:
        header = read_header(path)
        if twice := sorted(found.keys() & header):
            raise WeightsError(f"{path.name}: {twice[0]} occurs twice")
        found |= dict.fromkeys(header, (path, header))
    entries = {tensor: header[tensor] for tensor, (_, header) in found.items()}
    if (kind := detect_non_controlnet(entries)) is not None:
        raise WeightsError(f"{name}: {kind}; {ADVICE}")
    prefix = find_prefix(found)
    if prefix is None:
        raise WeightsError(f"{name}: not a ControlNet, because it embeds no map; {ADVICE}")
    own = {
        tensor.removeprefix(prefix)
        for tensor in found
        if tensor.startswith(prefix) and not is_mark(tensor)
    }
    tensors: dict[str, TensorSlice] = {}
    for tensor, renamed in to_diffusers_names(own).items():
        if renamed in tensors:
            raise WeightsError(f"{name}: {renamed} occurs with two names")
        path, header = found[prefix + tensor]
        entry = header[prefix + tensor]
        if entry.dtype not in FLOATING:
            raise WeightsError(
                f"{name}: {tensor} has integers ({entry.dtype}), so the file is quantized, which "
                f"this service does not read; {ADVICE}"
            )
        move = KeyMapping(prefix + tensor, renamed, entry.shape, (entry.shape,))
        tensors[renamed] = slice_tensor(path, header, move)
    return tensors


def _check_shapes(name: str, shapes: Mapping[str, Shape], expected: Mapping[str, Shape]) -> None:
    """Raise WeightsError unless the tensors are exactly those that the configuration requires."""
    if missing := [tensor for tensor in expected if tensor not in shapes]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise WeightsError(f"{name}: incomplete, without {missing[0]}{more}")
    if surplus := [tensor for tensor in shapes if tensor not in expected]:
        more = f" and {len(surplus) - 1} more" if len(surplus) > 1 else ""
        raise WeightsError(
            f"{name}: has {surplus[0]}{more}, which a ControlNet of its configuration has not, "
            f"so its pictures would be wrong; {ADVICE}"
        )
    for tensor, shape in expected.items():
        if shapes[tensor] != shape:
            raise WeightsError(
                f"{name}: {tensor} has the shape {list(shapes[tensor])} where its configuration "
                f"requires {list(shape)}"
            )


def _published_unet() -> dict[str, Any]:
    config = json.loads((SDXL / "unet.json").read_text(encoding="utf-8"))
    return {"SDXL": config}
