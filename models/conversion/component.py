"""Conversion of published components to the store's canonical form.

A component is a folder with a complete config.json and one canonical safetensors file. Tensors are
copied in pieces, so that memory use does not depend on the size of the weights.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from models.catalog.schema import PICKLE_SUFFIXES, SAFETENSORS_SUFFIXES
from models.conversion.config import (
    PROCESSOR_NAME,
    canonicalize_config,
    read_config,
    read_json,
    write_config,
    write_json,
)
from models.conversion.safetensors_io import OnBytes, WeightsError
from models.conversion.single_file.layouts import LAYOUTS
from models.conversion.single_file.part import derived, fixed, locate_part
from models.conversion.single_file.weights import read_weights
from models.conversion.tensor_copy import Dtype as Dtype
from models.conversion.tensor_copy import write_slices

TOKENIZERS = ("tokenizer", "tokenizer_2")
_TRANSFORMERS_NAME = "model.safetensors"
_DIFFUSERS_NAME = "diffusion_pytorch_model.safetensors"


def weight_name(kind: str) -> str:
    """Return the standard name of a component's weight file."""
    is_transformers = kind.startswith("text_encoder") or kind == "depth_estimator"
    return _TRANSFORMERS_NAME if is_transformers else _DIFFUSERS_NAME


def canonicalize_component(
    kind: str, source: Path, target: Path, dtype: Dtype | None, advance: OnBytes | None = None
) -> None:
    """Write a component in canonical form, so that equal components have equal bytes.

    Args:
        kind: Component kind, such as `unet`, `vae`, `text_encoder` or `tokenizer`.
        source: Folder with config.json and safetensors weights in one file or in shards, and
            optionally an image processor's settings. A tokenizer's files are copied unchanged.
        target: Folder of the result; created if it does not exist.
        dtype: Dtype of the written floating-point tensors; None keeps the files'.
        advance: Function called with the number of bytes of each piece written.

    Raises:
        WeightsError: The weights are missing, ambiguous, pickled, corrupt or of another kind.
        OSError: A file cannot be read or written.
    """
    if kind in TOKENIZERS:
        _copy_tokenizer(kind, source, target)
        return
    config = read_config(kind, source)
    pieces = read_weights(_weight_files(kind, source, dtype))
    if not pieces:
        raise WeightsError(f"{kind}: its weight file holds no tensors")
    if kind in LAYOUTS:
        pieces = dict(locate_part(kind, pieces, fixed(config)).slices)
    target.mkdir(parents=True, exist_ok=True)
    write_config(target, config)
    if (source / PROCESSOR_NAME).is_file():
        write_json(target / PROCESSOR_NAME, read_json(kind, source / PROCESSOR_NAME))
    write_slices(target / weight_name(kind), pieces, dtype, advance)


def convert_file(
    kind: str, source: Path, target: Path, dtype: Dtype | None, base: Path | None = None
) -> None:
    """Write a component from one file, in canonical form.

    Args:
        kind: Component kind, a key of LAYOUTS.
        source: Safetensors file with the component's tensors in any known spelling, alone or in a
            whole checkpoint.
        target: Folder of the result; created if it does not exist.
        dtype: Dtype of the written floating-point tensors; None keeps the file's, or widens 8-bit
            floats to float16.
        base: config.json of the component that this one replaces, for the settings that shapes do
            not determine. Without it, or if the shapes do not fit it, SDXL's configuration is
            taken.

    Raises:
        WeightsError: The file is a pickle, corrupt or incomplete, has no such component or one of
            another model or size, or a value is NaN, infinite or exceeds the dtype's range.
        OSError: A file cannot be read or written.
    """
    refuse_pickle(source)
    weights = read_weights([source])
    if not weights:
        raise WeightsError(f"{source.name}: holds no tensors")
    config = None if base is None else canonicalize_config(kind, read_json(kind, base))
    found = locate_part(kind, weights, derived(kind, config))
    target.mkdir(parents=True, exist_ok=True)
    write_config(target, found.config)
    write_slices(target / weight_name(kind), found.slices, dtype)


def _weight_files(kind: str, source: Path, dtype: Dtype | None) -> list[Path]:
    """Return the weight file of a component's folder, or its shards."""
    stem = weight_name(kind).removesuffix(".safetensors")
    plain, half = (f"{stem}.safetensors", f"{stem}.fp16.safetensors")
    sharded = (f"{stem}.safetensors.index.json", f"{stem}.safetensors.index.fp16.json")
    names = [plain, sharded[0], half, sharded[1]]
    if dtype == "float16":
        # The publisher's cast needs half the reading.
        names = [half, sharded[1], plain, sharded[0]]
    for name in names:
        if (source / name).is_file():
            return _shards(source / name) if name.endswith(".json") else [source / name]
    found = sorted(path for path in source.iterdir() if path.suffix.lower() in SAFETENSORS_SUFFIXES)
    if len(found) == 1:
        return found
    if found:
        raise WeightsError(f"{kind}: several weight files and none of them is {plain}")
    for path in sorted(source.iterdir()):
        refuse_pickle(path)
    raise WeightsError(f"{kind}: no safetensors file")


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{index.name}: not an index of shards") from error
    if any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise WeightsError(f"{index.name}: names a file outside its folder")
    paths = [index.parent / name for name in names]
    if absent := [path.name for path in paths if not path.is_file()]:
        raise WeightsError(f"{index.name}: {', '.join(absent)} missing")
    return paths


def refuse_pickle(path: Path) -> None:
    """Raise WeightsError for a file whose name is that of a pickle."""
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise WeightsError(f"{path.name}: a pickle; only safetensors weights are read")


def _copy_tokenizer(kind: str, source: Path, target: Path) -> None:
    files = sorted(path for path in source.iterdir() if path.suffix in {".json", ".txt"})
    names = {path.name for path in files}
    if "tokenizer.json" not in names and not {"vocab.json", "merges.txt"} <= names:
        raise WeightsError(f"{kind}: neither tokenizer.json nor vocab.json and merges.txt")
    target.mkdir(parents=True, exist_ok=True)
    for path in files:
        shutil.copyfile(path, target / path.name)
