"""Split of single-file SDXL checkpoints (arXiv:2307.01952) into components."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from models.conversion.component import refuse_pickle, weight_name
from models.conversion.config import SDXL, write_config
from models.conversion.safetensors_io import OnBytes, WeightsError
from models.conversion.single_file.part import derived, locate_part
from models.conversion.single_file.weights import read_weights
from models.conversion.tensor_copy import Dtype as Dtype
from models.conversion.tensor_copy import write_slices

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
        dtype: Dtype of the written floating-point tensors; None keeps the file's, or widens a
            part with 8-bit floats to float16.
        parts: Subset of CHECKPOINT_PARTS to write; the file may lack the others.
        advance: Function called with the number of bytes of each piece written.
        configs: Folder with the configuration of each part, `<part>.json`.

    Returns:
        The folder of each part.

    Raises:
        WeightsError: The file is a pickle, corrupt, not SDXL or incomplete, or a value is NaN,
            infinite or exceeds the dtype's range.
        OSError: A file cannot be read or written.
    """
    refuse_pickle(checkpoint)
    weights = read_weights([checkpoint])
    if not weights:
        raise WeightsError(f"{checkpoint.name}: holds no tensors")
    located = {
        part: locate_part(part, weights, derived(part, None, configs), is_checkpoint=True)
        for part in parts
    }
    folders = {}
    for part, found in located.items():
        folder = folders[part] = target / part
        folder.mkdir(parents=True, exist_ok=True)
        write_config(folder, found.config)
        write_slices(folder / weight_name(part), found.slices, dtype, advance)
    return folders
