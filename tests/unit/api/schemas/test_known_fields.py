"""Suggestions for unknown fields."""

from __future__ import annotations

import pytest

from api.schemas.known_fields import describe_unknown_field


@pytest.mark.parametrize(("name", "known"), [
    ("cfg_scale", "cfg"), ("CFG_Scale", "cfg"), ("num_inference_steps", "steps"),
    ("sampler_name", "scheduler"), ("denoising_strength", "strength"), ("promt", "prompt"),
    ("depth_map", "depth_map_b64"), ("negativeprompt", "negative_prompt"), ("Width", "width"),
])  # fmt: skip
def test_nearest_field_is_suggested(name: str, known: str) -> None:
    assert describe_unknown_field(name) == f"unknown field; did you mean `{known}`?"


@pytest.mark.parametrize("name", ["colour", "x" * 10_000, "", "🏔"])
def test_nothing_is_suggested_for_other_names(name: str) -> None:
    assert describe_unknown_field(name) == "unknown field"
