"""`python -m models`: import, list, verify and prune the weights of a catalog."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from api.settings import Settings, SettingsError, load_settings
from models.catalog import Catalog, CatalogError, load_catalog
from models.display import display
from models.fetching import FetchOptions
from models.importing import ImportingError, import_catalog, import_lock
from models.pruning import prune
from models.store import SECTIONS, StoreError, damaged, inventory


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status (1: failed, with the reason on stderr)."""
    options = _parser().parse_args(arguments)
    try:
        settings = load_settings()
        catalog = load_catalog(options.catalog or settings.catalog)
        command: Callable[[Catalog, Settings, argparse.Namespace], int] = options.run
        return command(catalog, settings, options)
    except (SettingsError, CatalogError, ImportingError, StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the next import goes on from here", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m models", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--catalog", help="demo, experimance, or a TOML file; unset: the environment's CATALOG"
    )
    for run, text in (
        (_import, "bring the catalog's weights into the Bento model store"),
        (_list, "what of the catalog is in the store"),
        (_verify, "check the stored files against their digests"),
        (_prune, "remove what nothing refers to any more"),
    ):
        command = commands.add_parser(run.__name__[1:], help=text, parents=[common])
        command.set_defaults(run=run)
    importing = commands.choices["import"]
    importing.add_argument(
        "--repin", action="store_true", help="accept sources that changed, and pin them anew"
    )
    importing.add_argument(
        "--verify", action="store_true", help="check what is there, and replace what is damaged"
    )
    return parser


def _import(catalog: Catalog, settings: Settings, options: argparse.Namespace) -> int:
    with display() as (progress, say):
        import_catalog(
            catalog,
            FetchOptions.of(settings.models_dir, settings.google_storage_base),
            progress,
            say,
            repin=options.repin,
            verify=options.verify,
        )
    return 0


def _list(catalog: Catalog, settings: Settings, options: argparse.Namespace) -> int:
    found = inventory(catalog)
    for section in SECTIONS:
        for name in getattr(catalog, section):
            entry = getattr(found, section).get(name)
            state = f"{entry.size / 1e6:9.1f} MB  {entry.tag}" if entry else "  missing"
            print(f"{section}.{name:<20} {state}")
    return 0


def _verify(catalog: Catalog, settings: Settings, options: argparse.Namespace) -> int:
    bad = [component.tag for component in damaged(inventory(catalog))]
    if not bad:
        print("every component matches its digest")
        return 0
    print(f"damaged: {', '.join(bad)}")
    print(f"replace with: python -m models import --verify --catalog {catalog.argument}")
    return 1


def _prune(catalog: Catalog, settings: Settings, options: argparse.Namespace) -> int:
    freed = 0
    with import_lock(print):
        for what, size in prune(
            catalog, FetchOptions.of(settings.models_dir, settings.google_storage_base).downloads
        ):
            print(f"removed  {what}  {size / 1e6:.1f} MB")
            freed += size
    print(f"{freed / 1e6:.1f} MB freed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
