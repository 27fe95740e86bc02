"""`python -m models`: import, list and verify the weights of a catalog."""

from __future__ import annotations

import argparse
import sys

from models.catalog import CatalogError, load_catalog
from models.importing import ImportingError, import_catalog
from models.store import SECTIONS, StoreError, damaged, inventory


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status (1: failed, with the reason on stderr)."""
    parser = argparse.ArgumentParser(prog="python -m models", description=__doc__)
    parser.add_argument("command", choices=["import", "list", "verify"])
    parser.add_argument("--catalog", default="demo", help="demo, experimance, or a TOML file")
    options = parser.parse_args(arguments)
    try:
        catalog = load_catalog(options.catalog)
        if options.command == "import":
            import_catalog(catalog, print)
            return 0
        found = inventory(catalog)
        if options.command == "verify":
            bad = list(damaged(found))
            print(f"damaged: {', '.join(bad)}" if bad else "every component matches its digest")
            return 1 if bad else 0
        for section in SECTIONS:
            for name in getattr(catalog, section):
                entry = getattr(found, section).get(name)
                state = f"{entry.size / 1e6:9.1f} MB  {entry.tag}" if entry else "  missing"
                print(f"{section}.{name:<20} {state}")
    except (CatalogError, ImportingError, StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
