"""Which versions the Bento was built with that this code runs from."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import yaml

_SOURCES = Path(__file__).parent.parent


@cache
def built_versions(sources: Path = _SOURCES) -> Mapping[str, str]:
    """Version by model name, as the Bento's manifest lists them; empty outside of a Bento.

    Of a name with several versions, as components have, any one: entries have one each.
    """
    manifest = sources.parent / "bento.yaml"
    if sources.name != "src" or not manifest.is_file():
        return {}
    services = yaml.safe_load(manifest.read_text(encoding="utf-8")).get("services", [])
    tags = [model["tag"] for service in services for model in service.get("models", [])]
    return {name: version for name, _, version in (tag.partition(":") for tag in tags)}
