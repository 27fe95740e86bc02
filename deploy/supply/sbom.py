"""A software bill of materials (SBOM) of an image: components with version and licence.

    python -m deploy.supply.sbom [--catalog NAME] [--output FILE]

CycloneDX 1.6 in JSON: the packages of requirements.lock, and the catalog's weights.
"""

from __future__ import annotations

import argparse
import json
import sys
import uuid
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

from deploy.setup.lockfile import SERVING, entries, pinned
from models.catalog import Catalog, load_catalog


def build_sbom(catalog: Catalog) -> dict[str, Any]:
    """Return the CycloneDX document; it is deterministic for a given lock and catalog."""
    lock = SERVING.read_text(encoding="utf-8")
    packages = [_package(name, lines) for name, lines in entries(lock)]
    weights = [
        _weights(kind, name, spec)
        for kind in ("models", "controlnets", "loras", "depth_estimators")
        for name, spec in getattr(catalog, kind).items()
    ]
    content = json.dumps([packages, weights], sort_keys=True)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "name": "experimance-controlnet",
                "version": catalog.name,
            }
        },
        "components": [*packages, *weights],
    }


def _package(name: str, lines: str) -> dict[str, Any]:
    version, _ = pinned(lines)
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": f"pkg:pypi/{name}@{version}",
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name}@{version}",
    }
    licence = _licence(name)
    if licence:
        component["licenses"] = [{"license": {"name": licence}}]
    return component


def _licence(package: str) -> str | None:
    try:
        about = metadata(package)
    except PackageNotFoundError:
        return None
    fields = (about[name] for name in ("License-Expression", "License") if name in about)
    text = next((field for field in fields if field), "")
    return text.splitlines()[0][:100] if text.strip() else None


def _weights(kind: str, name: str, spec: Any) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": f"{kind}/{name}",
        "name": name,
        "description": f"{kind.removesuffix('s')} from {spec.source}",
    }
    licence = getattr(spec, "licence", None) or getattr(spec, "license", None)
    if licence:
        component["licenses"] = [{"license": {"name": licence}}]
    return component


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the document; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.supply.sbom", description=__doc__)
    parser.add_argument("--catalog", default="demo")
    parser.add_argument("--output", type=Path, default=None, help="a file; else stdout")
    options = parser.parse_args(arguments)
    text = json.dumps(build_sbom(load_catalog(options.catalog)), indent=2) + "\n"
    if options.output is None:
        sys.stdout.write(text)
    else:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
