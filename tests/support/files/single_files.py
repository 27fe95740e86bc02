"""The demo set's components as single files, in the names that tools write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from models.catalog import Catalog, load_catalog
from models.conversion.component import weight_name
from models.conversion.sdxl_key_map import key_mappings, open_clip_mappings
from testing.server import ROOT

WEIGHTS = ROOT / "models" / "demo" / "weights"
Tensors = dict[str, torch.Tensor]

_CATALOG = """
name = "files"
default_model = "base"
default_controlnet = "sdxl_small"
{settings}

[models.base]
source = "file:{weights}"
licence = "Apache-2.0"
native_size = 256
steps = 4
cfg = 1.0
scheduler = {{ class = "EulerDiscreteScheduler"{scheduler} }}
{parts}

[controlnets.sdxl_small]
source = "file:{weights}/controlnet"
licence = "Apache-2.0"
"""


def demo_config(kind: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((WEIGHTS / kind / "config.json").read_text())
    return content


def demo_tensors(kind: str) -> Tensors:
    """A component's tensors in the names of diffusers and transformers."""
    found = load_file(WEIGHTS / kind / weight_name(kind))
    if kind.startswith("text_encoder"):
        start, projection = "text_model.", "text_projection"
        return {k if k.startswith((start, projection)) else start + k: v for k, v in found.items()}
    return found


def ldm_tensors(kind: str, prefix: str | None = None) -> Tensors:
    """A component's tensors in the names of single-file checkpoints.

    The first text encoder of a checkpoint has transformers' names.
    """
    return _renamed(key_mappings(kind, demo_config(kind), prefix), demo_tensors(kind))


def open_clip_tensors(kind: str, prefix: str = "") -> Tensors:
    """A text encoder in OpenCLIP's names."""
    if kind == "text_encoder_2":
        return ldm_tensors(kind, prefix)
    named = _renamed(open_clip_mappings(demo_config(kind)), demo_tensors(kind))
    return with_prefix(prefix, named)


def taesd_tensors(prefix: str = "") -> Tensors:
    """The tiny decoder in the names of its author: all layers follow one that clamps."""
    start = "decoder.layers."
    named = {}
    for name, tensor in demo_tensors("tiny_decoder").items():
        if name.startswith(start):
            number, _, rest = name.removeprefix(start).partition(".")
            named[f"{prefix}{int(number) + 1}.{rest}"] = tensor
    return named


def with_prefix(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def demo_checkpoint() -> Tensors:
    """All networks of the demo set in one file."""
    parts = ("unet", "vae", "text_encoder", "text_encoder_2")
    return {name: tensor for part in parts for name, tensor in ldm_tensors(part).items()}


def write(path: Path, tensors: Tensors, **metadata: str) -> Path:
    """A safetensors file; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata or None)
    return path


def catalog_of(
    folder: Path, scheduler: str = "", settings: str = "", weights: Path = WEIGHTS, **parts: Path
) -> Catalog:
    """A catalog of the demo set in which some components have sources of their own."""
    lines = "\n".join(f'{kind} = "file:{path}"' for kind, path in parts.items())
    file = folder / "files.toml"
    folder.mkdir(parents=True, exist_ok=True)
    text = _CATALOG.format(weights=weights, parts=lines, scheduler=scheduler, settings=settings)
    file.write_text(text, encoding="utf-8")
    return load_catalog(str(file))


def _renamed(mappings: Any, weights: Tensors) -> Tensors:
    pieces: dict[str, list[torch.Tensor]] = {}
    for move in mappings:
        tensor = weights[move.target]
        if move.transposed:
            tensor = tensor.T
        elif move.first_row == 0 and move.shape in move.source_shapes[1:]:
            tensor = tensor.reshape(move.source_shapes[0])
        pieces.setdefault(move.source, []).append(tensor)
    return {name: torch.cat(found) for name, found in pieces.items()}
