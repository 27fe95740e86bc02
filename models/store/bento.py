"""Model versions in a Bento's manifest."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import yaml

_SOURCES = Path(__file__).parents[2]


@cache
def bento_model_versions(sources: Path = _SOURCES) -> Mapping[str, str]:
    """Return the versions in the Bento's manifest by model name; empty outside a Bento.

    An entry has exactly one version. For components, which may have several, the last one wins.
    """
    manifest = sources.parent / "bento.yaml"
    if sources.name != "src" or not manifest.is_file():
        return {}
    services = yaml.safe_load(manifest.read_text(encoding="utf-8")).get("services", [])
    tags = [model["tag"] for service in services for model in service.get("models", [])]
    return {name: version for name, _, version in (tag.partition(":") for tag in tags)}
