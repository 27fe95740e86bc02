"""Texts of trainers in a file's metadata: chosen, cleaned and bounded."""

from __future__ import annotations

import json

import pytest

from models.inspection.training_metadata import clean_text, describe_training, frequent_tags


@pytest.mark.parametrize(("text", "cleaned"), [
    ("plain", "plain"),
    (" two\n lines\t", "two lines"),
    ("\x1b[2J\x07red", "[2J red"),
    ("left\u202eright\u200b", "left right"),
    ("\ud800", ""),
    ("x" * 300, "x" * 199 + "…"),
])  # fmt: skip
def test_texts_are_one_printable_line(text: str, cleaned: str) -> None:
    assert clean_text(text) == cleaned


def test_a_huge_text_is_cut() -> None:
    assert len(clean_text("\x00" * 1000 + "x" * 10**6)) <= 200


def test_fields_of_every_trainer() -> None:
    found = describe_training({
        "ss_output_name": "mist", "ss_network_module": "networks.lora",
        "modelspec.prediction_type": "epsilon", "ss_resolution": "(1024, 1024)", "other": "x",
    })  # fmt: skip
    assert found == {
        "title": "mist", "network module": "networks.lora", "prediction type": "epsilon",
        "resolution": "(1024, 1024)",
    }  # fmt: skip


def test_the_specification_precedes_the_trainer() -> None:
    found = describe_training({"ss_output_name": "a", "modelspec.title": "b"})
    assert found == {"title": "b"}


def test_tags_of_all_folders_are_added() -> None:
    folders = {"5_a": {"hill": 2, "lake": 3}, "1_b": {"hill": 2}}
    assert frequent_tags(json.dumps(folders)) == ["hill", "lake"]


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 10_000, "null", '{"a": 1}', '{"a": {"b": "c", "d": -1, "e": true}}']
)
def test_hostile_tags_are_ignored(text: str) -> None:
    assert frequent_tags(text) == []
