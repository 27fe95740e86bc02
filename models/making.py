"""Making an entry's components from its sources' files."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from models.components import SINGLE_FILES, Part
from models.convert import Dtype, normalize_component, split_checkpoint
from models.safetensors_file import read_header


def make_components(
    parts: Sequence[Part],
    files: Mapping[str, Sequence[Path]],
    work: Path,
    dtype: Dtype | None,
) -> dict[str, Path]:
    """Every component in a folder of its own below `work`, as the store will hold it, by kind.

    Args:
        parts: what to make.
        files: the source's files of each part, by kind.
        work: an empty folder.
        dtype: precision of the networks; None keeps what the files have. LoRAs are kept as they
            are: their precision is the network's that they act in; so are depth estimators.

    Raises:
        WeightsError: a file that is not what it should be.
    """
    made: dict[str, Path] = {}
    inside = [part.kind for part in parts if part.checkpoint]
    if inside:
        (checkpoint,) = files[inside[0]]
        made |= split_checkpoint(checkpoint, work, dtype, inside)
    for kind in (part.kind for part in parts if not part.checkpoint):
        made[kind] = work / kind
        if kind in SINGLE_FILES:
            (file,) = files[kind]
            read_header(file)
            made[kind].mkdir()
            shutil.copyfile(file, made[kind] / f"{kind.removeprefix('depth_')}.safetensors")
        else:
            chosen = work / f".{kind}"
            _link(files[kind], chosen)
            precision = None if kind == "depth_estimator" else dtype
            normalize_component(kind, chosen, made[kind], precision)
    return made


def _link(files: Sequence[Path], folder: Path) -> None:
    """A folder with just these files: what the source has beside them is not read."""
    folder.mkdir()
    for file in files:
        (folder / file.name).symlink_to(file.resolve())
