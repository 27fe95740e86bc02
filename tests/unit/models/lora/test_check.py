"""Check of an adapter file against the variants of the store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from models.conversion.config import CONFIG_NAME
from models.conversion.safetensors_io import WeightsError
from models.lora.check import check_adapter
from models.lora.layer_table import PARTS
from models.store.store import CatalogEntry, Component
from testing.workbench import WEIGHTS

LAYER = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


def variant(tmp_path: Path, name: str, **changes: Any) -> CatalogEntry:
    """A variant of the demo set, with changed settings of its UNet."""
    components = {}
    for part in PARTS:
        folder = tmp_path / name / part
        folder.mkdir(parents=True)
        config = json.loads((WEIGHTS / part / CONFIG_NAME).read_text(encoding="utf-8"))
        config |= changes if part == "unet" else {}
        (folder / CONFIG_NAME).write_text(json.dumps(config), encoding="utf-8")
        components[part] = Component(part, f"sdxl-{part}:{name}", folder, 0)
    return CatalogEntry("models", name, f"{name}:1", "1", components)


def file_for(width: int, tmp_path: Path, **more: Any) -> Path:
    state = {
        f"{LAYER}.lora_A.weight": np.zeros((2, width), np.float32),
        f"{LAYER}.lora_B.weight": np.zeros((width, 2), np.float32),
    }
    path = tmp_path / "own.safetensors"
    save_file(state | more, path)
    return path


def demo_width() -> int:
    config = json.loads((WEIGHTS / "unet" / CONFIG_NAME).read_text(encoding="utf-8"))
    return int(config["block_out_channels"][-1])


def test_a_file_that_fits_has_no_notes(tmp_path: Path) -> None:
    path = file_for(demo_width(), tmp_path)
    assert check_adapter(path, [variant(tmp_path, "first"), variant(tmp_path, "second")]) == []


def test_parts_left_out_are_noted_once(tmp_path: Path) -> None:
    path = file_for(demo_width(), tmp_path, emphasis_scale=np.float32([1.0]))
    notes = check_adapter(path, [variant(tmp_path, "first"), variant(tmp_path, "second")])
    assert notes == ["not applied: emphasis_scale (unknown)"]


def test_variants_that_it_does_not_fit_are_noted(tmp_path: Path) -> None:
    path = file_for(demo_width(), tmp_path)
    widths = json.loads((WEIGHTS / "unet" / CONFIG_NAME).read_text())["block_out_channels"]
    other = variant(tmp_path, "wide", block_out_channels=[2 * width for width in widths])
    notes = check_adapter(path, [other, variant(tmp_path, "first")])
    assert notes == ["does not fit model wide"]
    with pytest.raises(WeightsError, match="shape"):
        check_adapter(path, [other])


def test_without_variants_the_published_size_counts(tmp_path: Path) -> None:
    assert check_adapter(file_for(1280, tmp_path), []) == []
    with pytest.raises(WeightsError, match="none of its 2 tensors fits"):
        check_adapter(file_for(demo_width(), tmp_path), [])
