"""Command line of `python -m models`: inspect files; import, list, verify, prune a catalog."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from common.settings import Settings, SettingsError, load_settings
from models.catalog import Catalog, CatalogError, load_catalog
from models.catalog.schema import SECTIONS
from models.importer import ImportingError, import_catalog, import_lock
from models.inspection.command import run_inspect
from models.sources.fetcher import FetchOptions
from models.sources.progress import progress_display
from models.store.inventory import find_corrupt, inventory
from models.store.prune import prune
from models.store.store import StoreError


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status.

    1 means failure, with the reason on stderr, or a file that `inspect` finds unusable; 2 means
    wrong usage.
    """
    options = _parser().parse_args(arguments)
    try:
        if options.command == "inspect":
            return run_inspect(options, load_catalog(options.catalog) if options.catalog else None)
        settings = load_settings()
        catalog = load_catalog(options.catalog or settings.catalog)
        command: Callable[[Catalog, Settings, argparse.Namespace], int] = options.run
        return command(catalog, settings, options)
    except (SettingsError, CatalogError, ImportingError, StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the next import resumes from here", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m models", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--catalog",
        help="demo, experimance, or a TOML file; default: the CATALOG environment variable",
    )
    for run, text in (
        (_import, "import the catalog's weights into the Bento model store"),
        (_list, "list the catalog's entries in the store"),
        (_verify, "check the stored files against their digests"),
        (_prune, "remove entries and components that are no longer referenced"),
    ):
        command = commands.add_parser(run.__name__[1:], help=text, parents=[common])
        command.set_defaults(run=run)
    inspecting = commands.add_parser(
        "inspect", help="say what weight files are, and print their catalog entries"
    )
    inspecting.add_argument("files", nargs="+", help="safetensors file, or folder with such files")
    inspecting.add_argument("--json", action="store_true", help="print JSON for scripts")
    inspecting.add_argument(
        "--catalog", help="compare with this catalog's imported variants; default: SDXL"
    )
    importing = commands.choices["import"]
    importing.add_argument(
        "--repin", action="store_true", help="accept changed sources and update their pins"
    )
    importing.add_argument(
        "--verify", action="store_true", help="check stored components and replace corrupt ones"
    )
    return parser


def _import(catalog: Catalog, settings: Settings, options: argparse.Namespace) -> int:
    with progress_display() as (progress, say):
        import_catalog(
            catalog,
            FetchOptions.with_defaults(settings.models_dir, settings.google_storage_base),
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
    corrupt = [component.tag for component in find_corrupt(inventory(catalog))]
    if not corrupt:
        print("every component matches its digest")
        return 0
    print(f"damaged: {', '.join(corrupt)}")
    print(f"repair with: python -m models import --verify --catalog {catalog.argument}")
    return 1


def _prune(catalog: Catalog, settings: Settings, options: argparse.Namespace) -> int:
    freed = 0
    with import_lock(print):
        for item, size in prune(
            catalog,
            FetchOptions.with_defaults(settings.models_dir, settings.google_storage_base).downloads,
        ):
            print(f"removed  {item}  {size / 1e6:.1f} MB")
            freed += size
    print(f"{freed / 1e6:.1f} MB freed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
