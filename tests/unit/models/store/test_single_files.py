"""Variants whose components are single files, through a whole import."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.__main__ import main
from models.catalog import load_catalog
from models.conversion.component import weight_name
from models.conversion.single_file import SINGLE_FILE_KINDS
from models.store.store import get_entry
from testing.imports import store_at
from testing.weight_files.components import in_training_names
from testing.workbench import WEIGHTS

pytestmark = pytest.mark.slow

VARIANT = """
licence = "none"
native_size = 256
steps = 6
cfg = 1.0
scheduler = { class = "EulerDiscreteScheduler" }
"""


def write_catalog(folder: Path, *lines: str) -> Path:
    file = folder / "own.toml"
    weights = f'source = "file:{WEIGHTS}"'
    file.write_text(
        "\n".join([
            'name = "own"', 'default_model = "single"', 'default_controlnet = "depth"',
            "[models.folder]", weights, VARIANT,
            "[models.single]", weights, *lines, VARIANT,
            "[controlnets.depth]", f'source = "file:{WEIGHTS}/controlnet"', 'licence = "none"',
        ]),
        encoding="utf-8",
    )  # fmt: skip
    return file


@pytest.mark.parametrize("naming", ["training", "library"])
def test_single_files_give_the_components_of_the_folder(naming: str, tmp_path: Path) -> None:
    lines = []
    for kind in SINGLE_FILE_KINDS:
        state = (
            in_training_names(kind)
            if naming == "training"
            else load_file(WEIGHTS / kind / weight_name(kind))
        )
        save_file(state, tmp_path / f"{kind}.sft")
        lines.append(f'{kind} = "file:{kind}.sft"')
    file = write_catalog(tmp_path, *lines)
    with store_at(tmp_path / "home"):
        assert main(["import", "--catalog", str(file)]) == 0
        assert main(["import", "--catalog", str(file)]) == 0, "again, with nothing to do"
        catalog = load_catalog(str(file))
        folder, single = (get_entry(catalog, "models", name) for name in ("folder", "single"))
    assert folder is not None
    assert single is not None
    for kind in SINGLE_FILE_KINDS:
        assert single.components[kind].tag == folder.components[kind].tag, kind


def test_a_file_of_another_model_is_refused_at_import(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"decoder.conv_in.weight": torch.zeros(512, 16, 3, 3)}, tmp_path / "flux.safetensors")
    file = write_catalog(tmp_path, 'vae = "file:flux.safetensors"')
    with store_at(tmp_path / "home"):
        assert main(["import", "--catalog", str(file)]) == 1
    said = capsys.readouterr().err
    assert "models.single: flux.safetensors: decoder.conv_in.weight has the shape" in said
    assert "Traceback" not in said
