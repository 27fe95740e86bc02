"""Weights as they are published, rewritten as the store keeps them.

A component is a folder with a complete config.json and one canonical safetensors file in half
precision. Tensors are copied one piece at a time: what conversion needs in memory does not depend
on how large the weights are.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from models.checkpoint_kind import other_kind
from models.component_config import (
    PROCESSOR_NAME,
    SDXL,
    read_config,
    read_json,
    write_config,
    write_json,
)
from models.half_precision import Dtype as Dtype
from models.safetensors_file import ITEM_BYTES, Advance, TensorSpan, WeightsError, read_header
from models.sdxl_keys import PREFIXES, Config, Move, moves
from models.tensor_copy import Piece, write_pieces

CHECKPOINT_PARTS = ("text_encoder", "text_encoder_2", "unet", "vae")
TOKENIZERS = ("tokenizer", "tokenizer_2")
_TRANSFORMERS_NAME = "model.safetensors"
_DIFFUSERS_NAME = "diffusion_pytorch_model.safetensors"

_PICKLES = {".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle"}


def weight_name(kind: str) -> str:
    """The standard name of a component's weight file."""
    by_transformers = kind.startswith("text_encoder") or kind == "depth_estimator"
    return _TRANSFORMERS_NAME if by_transformers else _DIFFUSERS_NAME


def split_checkpoint(
    checkpoint: Path,
    target: Path,
    dtype: Dtype | None,
    parts: Collection[str] = CHECKPOINT_PARTS,
    advance: Advance | None = None,
    configs: Path = SDXL,
) -> dict[str, Path]:
    """Write the components of a single-file SDXL checkpoint.

    Args:
        checkpoint: a safetensors file with the original names.
        target: gets a folder per part: config.json and the weights.
        dtype: what floating tensors become; None keeps what the file has.
        parts: those of CHECKPOINT_PARTS that are wanted; the file may lack the others.
        advance: called with the number of bytes of each piece written.
        configs: a folder with the configuration of each part, `<part>.json`.

    Returns:
        The folder of each part.

    Raises:
        WeightsError: a pickle, damaged, not SDXL, incomplete, or with values beyond the dtype.
        OSError: the disk refuses.
    """
    _refuse_pickle(checkpoint)
    header = read_header(checkpoint)
    plans = {
        part: json.loads((configs / f"{part}.json").read_text(encoding="utf-8")) for part in parts
    }
    located = {part: _locate(checkpoint, header, part, plans[part]) for part in parts}
    folders = {}
    for part, pieces in located.items():
        folder = folders[part] = target / part
        folder.mkdir(parents=True, exist_ok=True)
        write_config(folder, plans[part])
        write_pieces(folder / weight_name(part), pieces, dtype, advance)
    return folders


def normalize_component(
    kind: str, source: Path, target: Path, dtype: Dtype | None, advance: Advance | None = None
) -> None:
    """Rewrite a component's folder canonically, so that equal components have equal bytes.

    Args:
        kind: `unet`, `vae`, `text_encoder`, `tokenizer` and so on.
        source: config.json and safetensors weights in one file or in shards, perhaps the settings
            of a picture processor; of a tokenizer, its files, which are copied as they are.
        target: made if it does not exist.
        dtype: what floating tensors become; None keeps what the files have.
        advance: called with the number of bytes of each piece written.

    Raises:
        WeightsError: no weights, several sets of them, pickles alone, damaged, or of another kind.
        OSError: the disk refuses.
    """
    if kind in TOKENIZERS:
        _copy_tokenizer(kind, source, target)
        return
    config = read_config(kind, source)
    pieces: dict[str, Piece] = {}
    for path in _weight_files(kind, source, dtype):
        for name, span in read_header(path).items():
            canonical = _canonical_name(kind, name)
            if canonical is None:
                continue
            if canonical in pieces:
                raise WeightsError(f"{path.name}: {name} is there twice")
            pieces[canonical] = Piece(path, span.dtype, span.shape, span.start)
    if not pieces:
        raise WeightsError(f"{kind}: its weight file holds no tensors")
    target.mkdir(parents=True, exist_ok=True)
    write_config(target, config)
    if (source / PROCESSOR_NAME).is_file():
        write_json(target / PROCESSOR_NAME, read_json(kind, source / PROCESSOR_NAME))
    write_pieces(target / weight_name(kind), pieces, dtype, advance)


def _locate(
    checkpoint: Path, header: Mapping[str, TensorSpan], part: str, config: Config
) -> dict[str, Piece]:
    """Where each of the part's tensors lies in the checkpoint, all of them checked."""
    name = checkpoint.name
    planned = moves(part, config)
    missing = [move.source for move in planned if move.source not in header]
    wrong = [move for move in planned if move.source not in missing] if not missing else []
    wrong = [move for move in wrong if header[move.source].shape not in move.source_shapes]
    if missing or wrong:
        if (kind := other_kind(header)) is not None:
            raise WeightsError(f"{name}: not an SDXL checkpoint but {kind}")
        if len(missing) == len(planned):
            raise WeightsError(f"{name}: has no {part} (no {PREFIXES[part]}*)")
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise WeightsError(f"{name}: incomplete, without {missing[0]}{more}")
    if wrong:
        move = wrong[0]
        raise WeightsError(
            f"{name}: {move.source} has the shape {list(header[move.source].shape)} "
            f"where SDXL has {list(move.source_shapes[0])}"
        )
    if part == "unet":
        _refuse_surplus(name, header, planned)
    return {move.target: _piece(checkpoint, header[move.source], move) for move in planned}


def _refuse_surplus(name: str, header: Mapping[str, TensorSpan], planned: list[Move]) -> None:
    """Tensors of the UNet that SDXL's has not: a network with these left out is another one."""
    known = {move.source for move in planned}
    surplus = [key for key in header if key.startswith(PREFIXES["unet"]) and key not in known]
    if surplus:
        raise WeightsError(f"{name}: not SDXL's UNet, which has no {surplus[0]}")


def _piece(checkpoint: Path, span: TensorSpan, move: Move) -> Piece:
    row_bytes = math.prod(span.shape[1:]) * ITEM_BYTES[span.dtype]
    start = span.start + move.first_row * row_bytes
    return Piece(checkpoint, span.dtype, move.shape, start, move.transposed)


def _weight_files(kind: str, source: Path, dtype: Dtype | None) -> list[Path]:
    """The weight file of a component's folder, or its shards."""
    stem = weight_name(kind).removesuffix(".safetensors")
    plain, half = (f"{stem}.safetensors", f"{stem}.fp16.safetensors")
    sharded = (f"{stem}.safetensors.index.json", f"{stem}.safetensors.index.fp16.json")
    names = [plain, sharded[0], half, sharded[1]]
    if dtype == "float16":
        # Cast by the publisher: half as much to read.
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
        _refuse_pickle(path)
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


def _canonical_name(kind: str, name: str) -> str | None:
    """A tensor's name as the store spells it; None for one that says nothing."""
    if kind.startswith("text_encoder"):
        if name.endswith(("embeddings.position_ids", "logit_scale")):
            return None
        # Newer exporters leave the prefix of the first text encoder out.
        bare = name.startswith(("embeddings.", "encoder.", "final_layer_norm."))
        return f"text_model.{name}" if bare else name
    if kind == "vae":
        for old, new in _OLD_ATTENTION.items():
            name = re.sub(rf"(\.attentions\.\d+\.){old}\.", rf"\g<1>{new}.", name)
    return name


_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def _refuse_pickle(path: Path) -> None:
    if path.suffix.lower() in _PICKLES:
        raise WeightsError(f"{path.name}: a pickle; only safetensors weights are read")


def _copy_tokenizer(kind: str, source: Path, target: Path) -> None:
    files = sorted(path for path in source.iterdir() if path.suffix in {".json", ".txt"})
    names = {path.name for path in files}
    if "tokenizer.json" not in names and not {"vocab.json", "merges.txt"} <= names:
        raise WeightsError(f"{kind}: neither tokenizer.json nor vocab.json and merges.txt")
    target.mkdir(parents=True, exist_ok=True)
    for path in files:
        shutil.copyfile(path, target / path.name)
