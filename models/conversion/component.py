"""Conversion of published components to the store's canonical form.

A component is a folder with a complete config.json and one canonical safetensors file. Tensors are
copied in pieces, so that memory use does not depend on the size of the weights.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from models.catalog.schema import PICKLE_SUFFIXES
from models.conversion.config import (
    PROCESSOR_NAME,
    read_config,
    read_json,
    write_config,
    write_json,
)
from models.conversion.safetensors_io import (
    OnBytes,
    WeightsError,
    read_header,
)
from models.conversion.tensor_copy import Dtype as Dtype
from models.conversion.tensor_copy import TensorSlice, write_slices

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
    pieces: dict[str, TensorSlice] = {}
    for path in _weight_files(kind, source, dtype):
        for name, entry in read_header(path).items():
            canonical = canonical_name(kind, name)
            if canonical is None:
                continue
            if canonical in pieces:
                raise WeightsError(f"{path.name}: {name} occurs twice")
            pieces[canonical] = TensorSlice(path, entry.dtype, entry.shape, entry.start)
    if not pieces:
        raise WeightsError(f"{kind}: its weight file holds no tensors")
    target.mkdir(parents=True, exist_ok=True)
    write_config(target, config)
    if (source / PROCESSOR_NAME).is_file():
        write_json(target / PROCESSOR_NAME, read_json(kind, source / PROCESSOR_NAME))
    write_slices(target / weight_name(kind), pieces, dtype, advance)


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
    found = sorted(source.glob("*.safetensors"))
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


def canonical_name(kind: str, name: str) -> str | None:
    """Return a tensor's name in the store; None for a redundant tensor."""
    if kind.startswith("text_encoder"):
        if name.endswith(("embeddings.position_ids", "logit_scale")):
            return None
        # Newer exporters omit the prefix of the first text encoder.
        bare = name.startswith(("embeddings.", "encoder.", "final_layer_norm."))
        return f"text_model.{name}" if bare else name
    if kind == "vae":
        for old, new in _LEGACY_ATTENTION.items():
            name = re.sub(rf"(\.attentions\.\d+\.){old}\.", rf"\g<1>{new}.", name)
    return name


_LEGACY_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def refuse_pickle(path: Path) -> None:
    """Raise WeightsError for a file with the suffix of a pickle."""
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
