"""Split of single-file SDXL checkpoints (arXiv:2307.01952) into components."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path

from models.conversion.component import _refuse_pickle, weight_name
from models.conversion.config import (
    SDXL,
    write_config,
)
from models.conversion.detect_kind import detect_non_sdxl
from models.conversion.safetensors_io import (
    ITEM_BYTES,
    OnBytes,
    TensorEntry,
    WeightsError,
    read_header,
)
from models.conversion.sdxl_key_map import PREFIXES, Config, KeyMapping, key_mappings
from models.conversion.tensor_copy import Dtype as Dtype
from models.conversion.tensor_copy import TensorSlice, write_slices

CHECKPOINT_PARTS = ("text_encoder", "text_encoder_2", "unet", "vae")


def split_checkpoint(
    checkpoint: Path,
    target: Path,
    dtype: Dtype | None,
    parts: Collection[str] = CHECKPOINT_PARTS,
    advance: OnBytes | None = None,
    configs: Path = SDXL,
) -> dict[str, Path]:
    """Write the components of a single-file SDXL checkpoint.

    Args:
        checkpoint: Safetensors file with the original tensor names.
        target: Folder that receives one folder per part, with config.json and the weights.
        dtype: Dtype of the written floating-point tensors; None keeps the file's.
        parts: Subset of CHECKPOINT_PARTS to write; the file may lack the others.
        advance: Function called with the number of bytes of each piece written.
        configs: Folder with the configuration of each part, `<part>.json`.

    Returns:
        The folder of each part.

    Raises:
        WeightsError: The file is a pickle, corrupt, not SDXL or incomplete, or a value exceeds
            the dtype's range.
        OSError: A file cannot be read or written.
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
        write_slices(folder / weight_name(part), pieces, dtype, advance)
    return folders


def _locate(
    checkpoint: Path, header: Mapping[str, TensorEntry], part: str, config: Config
) -> dict[str, TensorSlice]:
    """Return the checked slices of the part's tensors in the checkpoint."""
    name = checkpoint.name
    planned = key_mappings(part, config)
    missing = [move.source for move in planned if move.source not in header]
    wrong = [move for move in planned if move.source not in missing] if not missing else []
    wrong = [move for move in wrong if header[move.source].shape not in move.source_shapes]
    if missing or wrong:
        if (kind := detect_non_sdxl(header)) is not None:
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
        _reject_extra_tensors(name, header, planned)
    return {move.target: _slice_tensor(checkpoint, header[move.source], move) for move in planned}


def _reject_extra_tensors(
    name: str, header: Mapping[str, TensorEntry], planned: list[KeyMapping]
) -> None:
    """Raise WeightsError for UNet tensors unknown to SDXL; without them the network changes."""
    known = {move.source for move in planned}
    surplus = [key for key in header if key.startswith(PREFIXES["unet"]) and key not in known]
    if surplus:
        raise WeightsError(f"{name}: not SDXL's UNet, which has no {surplus[0]}")


def _slice_tensor(checkpoint: Path, entry: TensorEntry, move: KeyMapping) -> TensorSlice:
    row_bytes = math.prod(entry.shape[1:]) * ITEM_BYTES[entry.dtype]
    start = entry.start + move.first_row * row_bytes
    return TensorSlice(checkpoint, entry.dtype, move.shape, start, move.transposed)
