"""The key map against diffusers' own converters, at full size, without weights."""

from __future__ import annotations

import inspect
import json
from typing import Any

import diffusers
import pytest
import torch
from transformers import CLIPTextConfig

from models.conversion.config import SDXL, canonicalize_config
from models.conversion.sdxl_key_map import PREFIXES, key_mappings
from tests.support.files.checkpoints import CONFIGS, converted, network

FULL = {part: json.loads((SDXL / f"{part}.json").read_text(encoding="utf-8")) for part in PREFIXES}


@pytest.mark.parametrize("configs", [FULL, CONFIGS], ids=["full", "small"])
@pytest.mark.parametrize("part", list(PREFIXES))
def test_key_map_matches_diffusers(part: str, configs: dict[str, Any]) -> None:
    planned = key_mappings(part, configs[part])
    # Values that tell which tensor and which row of it arrived: no weights are needed.
    original = {}
    for number, source in enumerate(dict.fromkeys(move.source for move in planned)):
        shape = next(move.source_shapes[0] for move in planned if move.source == source)
        rows = torch.arange(shape[0]) + 10_000 * number
        original[source] = rows.view(-1, *[1] * (len(shape) - 1)).expand(shape)
    expected = converted(part, configs[part], original)
    assert {move.target for move in planned} == set(expected)
    for move in planned:
        rows = original[move.source].narrow(
            0, move.first_row, move.shape[1 if move.transposed else 0]
        )
        ours = rows.T if move.transposed else rows.reshape(*rows.shape[: len(move.shape)])
        assert move.shape == tuple(expected[move.target].shape), move.target
        assert torch.equal(ours, expected[move.target]), move.target


@pytest.mark.parametrize("configs", [FULL, CONFIGS], ids=["full", "small"])
@pytest.mark.parametrize("part", list(PREFIXES))
def test_the_map_is_the_whole_network(part: str, configs: dict[str, Any]) -> None:
    shapes = {name: tuple(t.shape) for name, t in network(part, configs[part]).state_dict().items()}
    prefix = "text_model." if part == "text_encoder" else ""
    assert {move.target: move.shape for move in key_mappings(part, configs[part])} == {
        prefix + name: shape for name, shape in shapes.items()
    }


def test_sdxl_parameter_counts() -> None:
    counted = {
        part: sum(p.numel() for p in network(part, FULL[part]).parameters()) for part in FULL
    }
    assert counted == {
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
        "unet": 2_567_463_684,
        "vae": 83_653_863,
    }


def test_sdxl_configurations_are_complete_and_upcast_the_vae() -> None:
    for part, config in FULL.items():
        assert canonicalize_config(part, config) == config
    assert FULL["vae"]["force_upcast"] is True


def test_defaults_are_those_of_the_libraries() -> None:
    defaults = json.loads((SDXL / "defaults.json").read_text(encoding="utf-8"))
    for name, ours in defaults.items():
        if name == "clip_text_model":
            theirs = CLIPTextConfig().to_dict()
            assert {key: theirs.get(key, 0.0) for key in ours} == ours
            continue
        arguments = inspect.signature(getattr(diffusers, name)).parameters
        assert {
            key: list(argument.default) if isinstance(argument.default, tuple) else argument.default
            for key, argument in arguments.items()
        } == ours
