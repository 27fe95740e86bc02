"""Write the generated pages into docs/reference, or report the outdated ones.

python -m docs_build [--check]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from docs_build.reference.catalog import catalog_page
from docs_build.reference.cli import commands_page
from docs_build.reference.settings import settings_page

FOLDER = Path(__file__).parent.parent / "docs" / "reference"


def _api_page() -> str:
    # The service's module needs a catalog to load; the document does not depend on which.
    os.environ["CATALOG"] = "demo"
    import service
    from api.http.openapi import customize_openapi
    from docs_build.reference.api import api_page

    return api_page(customize_openapi(service.ImageService.openapi_spec.asdict()))  # type: ignore[attr-defined]


def _commands_page() -> str:
    from experimance.cli import app

    return commands_page(app)


PAGES: Mapping[str, Callable[[], str]] = {
    "api": _api_page,
    "catalog": catalog_page,
    "commands": _commands_page,
    "settings": settings_page,
}


def main() -> None:
    """Write the pages; with --check compare them instead, and exit 1 if one differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only")
    check = parser.parse_args().check
    stale = []
    for name, make in PAGES.items():
        path, text = FOLDER / f"{name}.md", make()
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path.name)
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if check and stale:
        sys.exit(f"docs/reference: {', '.join(stale)} out of date; run python -m docs_build")


if __name__ == "__main__":
    main()
