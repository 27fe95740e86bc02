"""The wire contract: paths, fields, bounds and codes change only on purpose."""

from __future__ import annotations

import json

import pytest

from tests.support.openapi_contract import CONTRACT, document, without_texts


@pytest.mark.slow
def test_the_document_keeps_the_contract() -> None:
    """On purpose: `python -m tests.support.openapi_contract`, and a line in CHANGELOG.md."""
    assert without_texts(document()) == json.loads(CONTRACT.read_text(encoding="utf-8"))


def test_field_named_title_is_kept() -> None:
    part = {"properties": {"title": {"type": "string", "title": "Title"}}, "title": "X"}
    assert without_texts(part) == {"properties": {"title": {"type": "string"}}}
