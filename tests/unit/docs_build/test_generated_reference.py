"""The generated references: nothing is left out, and bounds are in words."""

from __future__ import annotations

import re
from typing import Annotated, Any

import pytest
import typer
from pydantic import BaseModel, Field

from api.errors import CODES_BY_STATUS
from api.schemas.requests import GenerateRequest
from common.settings import Settings
from docs_build.markdown import fields_table, kind
from docs_build.reference.api import api_page
from docs_build.reference.catalog import catalog_page
from docs_build.reference.cli import commands_page
from docs_build.reference.settings import is_secret, settings_page
from models.catalog import SHIPPED, load_catalog
from models.catalog.schema import VariantSpec


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 50}, "integer, 1 to 50"),
        ({"type": "integer", "ge": 256, "le": 2048, "multiple_of": 8},
         "integer, 256 to 2 048, a multiple of 8"),
        ({"type": "number", "exclusiveMinimum": 0}, "number, over 0"),
        ({"type": "integer", "minimum": 0, "maximum": 2**63 - 1}, "integer, 0 to 2^63 - 1"),
        ({"type": "string", "minLength": 1, "maxLength": 2000}, "text, 1 to 2 000 characters"),
        ({"type": "string", "pattern": "^a$"}, "text, as `^a$`"),
        ({"enum": ["a", "b"]}, "`a`, `b`"),
        ({"const": True}, "`true`"),
        ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, "true or false or null"),
        ({"type": "array", "maxItems": 4, "items": {"$ref": "#/components/schemas/Lora"}},
         "list of [Lora], at most 4"),
        ({"type": "object", "additionalProperties": {"type": "number"}}, "names, each with number"),
    ],
)  # fmt: skip
def test_types_in_words(schema: dict[str, Any], words: str) -> None:
    assert kind(schema, lambda name: f"[{name}]") == words


def test_fields_have_defaults_and_meanings() -> None:
    class Request(BaseModel):
        prompt: str = Field(description="a | b")
        seed: int | None = None
        names: list[str] = Field(default_factory=list)

    rows = fields_table(Request.model_json_schema(), str).splitlines()[2:]
    assert rows == [
        "| `prompt` | text | required | a \\| b |",
        "| `seed` | integer or null | `null` |  |",
        "| `names` | list of text | empty |  |",
    ]


DOCUMENT = {
    "info": {"description": "What it is."},
    "paths": {
        "/readyz": {"get": {"tags": ["Infrastructure"], "responses": {}}},
        "/generate": {
            "post": {
                "tags": ["Service APIs"],
                "description": "Paint.\n\n        Or not.",
                "requestBody": {
                    "content": {"application/json": {"schema": GenerateRequest.model_json_schema()}}
                },
                "responses": {
                    "200": {"content": {"application/json": {"schema": {
                        "properties": {"told": {"$ref": "#/components/schemas/Told"}}}},
                        "image/png": {}}},
                    "500": {},
                },
            }
        },
    },
    "components": {
        "schemas": {
            "ErrorBody": {"properties": {"error": {"type": "string"}}},
            "LoraChoice": {"properties": {"name": {"type": "string", "default": "x"}}},
            "Told": {"properties": {"deep": {"$ref": "#/components/schemas/Deep"}}},
            "Deep": {"properties": {"end": {"type": "null"}}},
        }
    },
}  # fmt: skip


def test_api_page_lists_routes_fields_events_and_errors() -> None:
    page = api_page(DOCUMENT)
    assert "/readyz" not in page
    assert "\nOr not." in page
    for name in GenerateRequest.model_fields:
        assert f"\n| `{name}` |" in page
    for heading in ("## /generate", "### Told", "### Deep", "### LoraChoice", "### ErrorBody"):
        assert f"\n{heading}\n" in page
    for event in ("queued", "started", "step", "done", "error"):
        assert f"\n| `{event}` |" in page
    for status, codes in CODES_BY_STATUS.items():
        row = re.search(rf"^\| {status} \|.*$", page, re.M)
        assert row
        assert all(f"`{code}`" in row[0] for code in codes)
        assert not row[0].endswith("|  |")


def test_configuration_page_lists_settings_and_marks_secrets() -> None:
    page = settings_page()
    for name, field in Settings.model_fields.items():
        row = re.search(rf"^\| `{name.upper()}` \|.*$", page, re.M)
        assert row, name
        assert str(field.description) in row[0].replace("\\|", "|")
        assert ("**Secret**" in row[0]) == is_secret(field)
    assert {name for name, field in Settings.model_fields.items() if is_secret(field)} == {
        "api_token", "admin_token",
    }  # fmt: skip


def test_catalog_page_lists_format_and_shipped_catalogs() -> None:
    page = catalog_page()
    for name in VariantSpec.model_fields:
        assert f"\n| `{name}` |" in page
    for path in SHIPPED.glob("*.toml"):
        catalog = load_catalog(path.stem)
        part = page.partition(f"## The catalog `{catalog.name}`")[2]
        for name in (*catalog.models, *catalog.controlnets, *catalog.loras, *catalog.eras):
            assert f"\n| `{name}` |" in part


def test_the_command_page_has_every_command_and_option() -> None:
    app = typer.Typer()

    @app.command()
    def paint(
        depth: Annotated[str, typer.Argument(help="A map.")],
        seed: Annotated[int, typer.Option("--seed", "-s", min=0, help="Of the noise.")] = 7,
    ) -> None:
        """Paint a picture.

        Or several.
        """

    @app.command()
    def hidden_from_nobody() -> None:
        """Do something else."""

    page = commands_page(app)
    assert "## experimance paint\n\nPaint a picture.\n\nOr several." in page
    assert re.search(r"^\| `depth <str>` \| A map\.", page, re.M)
    assert re.search(
        r"^\| `-s, --seed <int range>` \| Of the noise\. +\[default: 7; x>=0\]", page, re.M
    )
    assert "## experimance hidden-from-nobody" in page
