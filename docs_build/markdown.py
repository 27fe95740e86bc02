"""Markdown building blocks of the generated pages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

GENERATED = "<!-- Made by `python -m docs_build`. Change its source, not this page. -->"
Schema = Mapping[str, Any]
_NAMES = {"integer": "integer", "number": "number", "boolean": "true or false", "null": "null"}


def page(title: str, *parts: str) -> str:
    """Return a complete page."""
    return "\n\n".join([f"# {title}", GENERATED, *(part for part in parts if part)]) + "\n"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; empty without rows."""
    lines = [_row(row) for row in rows]
    if not lines:
        return ""
    return "\n".join([_row(headings), "|" + "---|" * len(headings), *lines])


def code(text: object) -> str:
    """Return inline code."""
    return f"`{text}`"


def _row(cells: Sequence[str]) -> str:
    # A line break would end the row, and a vertical bar the cell.
    texts = (" ".join(cell.split()).replace("|", "\\|") for cell in cells)
    return "| " + " | ".join(texts) + " |"


def fields_table(schema: Schema, link: Callable[[str], str], *, answers: bool = False) -> str:
    """Return a table of an object's properties.

    Args:
        schema: JSON schema of the object.
        link: a function from another schema's name to its Markdown link.
        answers: whether the service sends the object; responses have no default column.
    """
    required = set(schema.get("required", ()))
    headings = ["field", "type", "meaning"] if answers else ["field", "type", "default", "meaning"]
    rows = []
    for name, field in schema.get("properties", {}).items():
        default = "required" if name in required else _default(field)
        cells = [code(name), kind(field, link), default, field.get("description", "")]
        rows.append(cells if not answers else [*cells[:2], cells[3]])
    return table(headings, rows)


def kind(schema: Schema, link: Callable[[str], str]) -> str:
    """Return the type in words, with its bounds."""
    if "$ref" in schema:
        return link(reference(schema))
    if "allOf" in schema and len(schema["allOf"]) == 1:
        return kind(schema["allOf"][0], link)
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(kind(option, link) for option in schema["anyOf"]))
    if "const" in schema:
        return code(json.dumps(schema["const"]))
    if "enum" in schema:
        return ", ".join(code(value) for value in schema["enum"])
    match schema.get("type"):
        case None:
            return "anything"
        case "array":
            return _bounds(f"list of {kind(schema['items'], link)}", _items(schema))
        case "object":
            named = [
                schema.get("additionalProperties"),
                *schema.get("patternProperties", {}).values(),
            ]
            values = [value for value in named if isinstance(value, Mapping)]
            return f"names, each with {kind(values[0], link)}" if values else "object"
        case "string":
            return _bounds("text", _characters(schema))
        case name:
            return _bounds(_NAMES.get(str(name), str(name)), _range(schema))


def _default(field: Schema) -> str:
    if "default" not in field:
        return "empty"
    default = field["default"]
    return code(default if isinstance(default, str) and default else json.dumps(default))


def reference(schema: Schema) -> str:
    """Return the name of the schema that a `$ref` refers to."""
    return str(schema["$ref"]).rpartition("/")[2]


def _bounds(name: str, bounds: str) -> str:
    return f"{name}, {bounds}" if bounds else name


def _range(schema: Schema) -> str:
    low = schema.get("minimum", schema.get("ge"))
    high = schema.get("maximum", schema.get("le"))
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    step = schema.get("multipleOf", schema.get("multiple_of"))
    parts = []
    if low is not None and high is not None:
        parts.append(f"{low:g} to {_number(high)}")
    elif low is not None:
        parts.append(f"at least {low:g}")
    elif high is not None:
        parts.append(f"at most {_number(high)}")
    if above is not None:
        parts.append(f"over {above:g}")
    if below is not None:
        parts.append(f"under {below:g}")
    if step is not None:
        parts.append(f"a multiple of {step:g}")
    return ", ".join(parts)


def _number(value: float) -> str:
    return "2^63 - 1" if value == 2**63 - 1 else f"{value:_}".removesuffix(".0").replace("_", " ")


def _characters(schema: Schema) -> str:
    parts = []
    if "minLength" in schema and "maxLength" in schema:
        parts.append(f"{schema['minLength']} to {_number(schema['maxLength'])} characters")
    elif "maxLength" in schema:
        parts.append(f"at most {_number(schema['maxLength'])} characters")
    elif "minLength" in schema:
        parts.append("not empty")
    if "pattern" in schema:
        parts.append(f"as {code(schema['pattern'])}")
    if schema.get("format") == "binary":
        parts.append("bytes")
    return ", ".join(parts)


def _items(schema: Schema) -> str:
    return f"at most {schema['maxItems']}" if "maxItems" in schema else ""
