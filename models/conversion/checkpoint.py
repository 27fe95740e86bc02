"""Split of single-file SDXL checkpoints (arXiv:2307.01952) into components."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from models.conversion.component import refuse_pickle, weight_name
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
    read_pieces,
)
from models.conversion.sdxl_key_map import PREFIXES, Config, KeyMapping, key_mappings
from models.conversion.tensor_copy import FLOATING, TensorSlice, to_float32, write_slices
from models.conversion.tensor_copy import Dtype as Dtype

_MARKS = (
    ".scale_weight", ".weight_scale", ".scale_input", ".input_scale", ".comfy_quant", "scaled_fp8",
    "v_pred", "ztsnr",
)  # fmt: skip
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
    plans, located = _plan(checkpoint, parts, configs)
    folders = {}
    for part, pieces in located.items():
        folder = folders[part] = target / part
        folder.mkdir(parents=True, exist_ok=True)
        write_config(folder, plans[part])
        write_slices(folder / weight_name(part), pieces, dtype, advance)
    return folders


def check_checkpoint(
    checkpoint: Path, parts: Collection[str] = CHECKPOINT_PARTS, configs: Path = SDXL
) -> None:
    """Check parts of a single-file checkpoint as their split does, from the file's header.

    Args:
        checkpoint: Safetensors file with the original tensor names.
        parts: Subset of CHECKPOINT_PARTS.
        configs: Folder with the configuration of each part, `<part>.json`.

    Raises:
        WeightsError: As for `split_checkpoint`.
        OSError: The file cannot be read.
    """
    _plan(checkpoint, parts, configs)


def _plan(
    checkpoint: Path, parts: Collection[str], configs: Path
) -> tuple[dict[str, Config], dict[str, dict[str, TensorSlice]]]:
    """Return the parts' configurations and the checked slices of their tensors."""
    refuse_pickle(checkpoint)
    header = read_header(checkpoint)
    plans = {
        part: json.loads((configs / f"{part}.json").read_text(encoding="utf-8")) for part in parts
    }
    return plans, {part: _locate(checkpoint, header, part, plans[part]) for part in parts}


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
        reject_extra_tensors(name, header, planned, PREFIXES["unet"])
    return {move.target: slice_tensor(checkpoint, header, move) for move in planned}


def reject_extra_tensors(
    name: str, header: Mapping[str, TensorEntry], planned: Sequence[KeyMapping], prefix: str
) -> None:
    """Raise WeightsError for UNet tensors unknown to SDXL; without them the network changes.

    Args:
        name: Name of the file.
        header: Its header.
        planned: Mappings of the UNet's tensors.
        prefix: Start of the UNet's names.
    """
    known = {move.source for move in planned}
    surplus = [
        key for key in header if key.startswith(prefix) and key not in known and not is_mark(key)
    ]
    if surplus:
        raise WeightsError(f"{name}: not SDXL's UNet, which has no {surplus[0]}")


def is_mark(key: str) -> bool:
    """Return whether a tensor describes others instead of being a weight: a scale or a flag."""
    return key.endswith(_MARKS)


def slice_tensor(file: Path, header: Mapping[str, TensorEntry], move: KeyMapping) -> TensorSlice:
    """Return the slice of a mapped tensor; float8 tensors have their scale, where the file has one.

    Args:
        file: Safetensors file.
        header: Its header.
        move: Mapping of a tensor that the header has.
    """
    entry = header[move.source]
    row_bytes = math.prod(entry.shape[1:]) * ITEM_BYTES[entry.dtype]
    start = entry.start + move.first_row * row_bytes
    scale = _read_scale(file, header, move.source) if entry.dtype.startswith("F8") else 1.0
    return TensorSlice(file, entry.dtype, move.shape, start, move.transposed, scale)


def _read_scale(file: Path, header: Mapping[str, TensorEntry], name: str) -> float:
    """Return the factor of a scaled float8 tensor, as ComfyUI stores it beside the weight.

    Raises:
        WeightsError: The factor is no single number.
    """
    layer = name.removesuffix(".weight")
    for key in (f"{layer}.scale_weight", f"{layer}.weight_scale"):
        entry = header.get(key)
        if entry is None:
            continue
        if math.prod(entry.shape) != 1 or entry.dtype not in FLOATING:
            raise WeightsError(f"{file.name}: {key} is no single number")
        with file.open("rb") as stream:
            (piece,) = read_pieces(stream, file, entry.start, entry.size, entry.size)
            return float(to_float32(piece, entry.dtype)[0])
    return 1.0
