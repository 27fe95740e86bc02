"""Generator of the settings reference, from the settings class."""

from __future__ import annotations

from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from common.settings import Settings
from docs_build.markdown import code, kind, page, table

_INTRODUCTION = """\
Environment variables of the service. An empty one counts as unset. A value that is not accepted
stops the start with its name, what is accepted, and exit status 78; a variable that is not in this
table is not read. What they are for, and those of the libraries beneath:
[deployment](../deployment.md#settings)."""


def settings_page() -> str:
    """Return the page."""
    return page("Configuration", _INTRODUCTION, settings_table())


def settings_table() -> str:
    """Return a table of all settings: name, accepted values, default, meaning."""
    schema: dict[str, Any] = Settings.model_json_schema()["properties"]
    rows = [
        [code(name.upper()), accepted(schema[name]), shown_default(field), _meaning(field)]
        for name, field in Settings.model_fields.items()
    ]
    return table(["variable", "accepted", "default", "meaning"], rows)


def shown_default(field: FieldInfo) -> str:
    """Return the default in the notation of environment variables."""
    if field.default is None:
        return "unset"
    value = int(field.default) if isinstance(field.default, bool) else field.default
    return code(value)


def is_secret(field: FieldInfo) -> bool:
    """Return whether the value is confidential."""
    return SecretStr in getattr(field.annotation, "__args__", (field.annotation,))


def accepted(schema: dict[str, Any]) -> str:
    """Return a description of the accepted values."""
    options = [option for option in schema.get("anyOf", [schema]) if option.get("type") != "null"]
    if options[0].get("format") == "path":
        return "a path"
    return kind(options[0], str)


def _meaning(field: FieldInfo) -> str:
    note = (
        " **Secret**: not in logs, not in a catalog, not in an image." if is_secret(field) else ""
    )
    return f"{field.description}.{note}" if note else str(field.description)
