"""The OpenAPI document without its texts: paths, fields, bounds and codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from testing.server import ROOT

CONTRACT = Path(__file__).with_name("openapi_contract.json")
_TEXTS = {"description", "summary", "title", "example", "examples", "tags", "info", "externalDocs"}
_SCRIPT = """
import json
import service
from api.http.openapi import customize_openapi
print("DOCUMENT" + json.dumps(customize_openapi(service.ImageService.openapi_spec.asdict())))
"""


def document() -> dict[str, Any]:
    """Return the service's OpenAPI document, made in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        cwd=ROOT,
        env={**os.environ, "CATALOG": "demo"},
        capture_output=True,
        text=True,
        check=True,
    )
    made: dict[str, Any] = json.loads(done.stdout.partition("DOCUMENT")[2])
    return made


def without_texts(part: Any, names: bool = False) -> Any:
    """Return a part of the document without descriptions, titles and examples.

    Args:
        part: a value of the document.
        names: whether the keys of `part` are names of fields or schemas, which all stay.
    """
    if isinstance(part, list):
        return [without_texts(item) for item in part]
    if not isinstance(part, dict):
        return part
    return {
        key: without_texts(value, names=not names and key in {"properties", "schemas", "paths"})
        for key, value in sorted(part.items())
        if names or key not in _TEXTS
    }


def main() -> None:
    """Write the contract anew: `python -m tests.support.openapi_contract`."""
    text = json.dumps(without_texts(document()), indent=1)
    CONTRACT.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
