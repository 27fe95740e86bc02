"""Removal of unreferenced models from the store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import bentoml

from models.catalog import Catalog
from models.catalog.schema import SECTIONS
from models.store.atomic_write import clear_staging, delete, store_root
from models.store.store import entry_name

_COMPONENT = "sdxl-"


def prune(catalog: Catalog, downloads: Path) -> Iterator[tuple[str, int]]:
    """Remove old versions of entries, entries removed from the catalog, and unused components.

    Leftovers of unfinished imports are removed too. The latest entries of other catalogs and all
    models of built Bentos are kept. Requires the import lock.

    Args:
        catalog: Catalog whose removed entries are deleted.
        downloads: Folder of unfinished downloads.

    Yields:
        The tag or description of a removed item, and its size in bytes.
    """
    kept = _find_latest_entries(catalog) | _find_bento_models()
    tags = [str(model.tag) for model in bentoml.models.list()]
    entries = [tag for tag in tags if _is_entry(tag)]
    used = set(kept) | set(_read_components(tag for tag in entries if tag in kept))
    for tag in tags:
        is_managed = tag.startswith(_COMPONENT) or _is_entry(tag)
        if is_managed and tag not in used:
            yield tag, delete(tag)
    download_bytes = sum(file.stat().st_size for file in downloads.rglob("*") if file.is_file())
    if download_bytes:
        shutil.rmtree(downloads)
        yield "unfinished downloads", download_bytes
    clear_staging()


def _find_latest_entries(catalog: Catalog) -> set[str]:
    """Return the latest version of every entry, except those removed from this catalog."""
    current = {
        entry_name(catalog, section, name)
        for section in SECTIONS
        for name in getattr(catalog, section)
    }
    found = set()
    for family in store_root().iterdir():
        if not _is_entry(family.name):
            continue
        if family.name.startswith(f"{catalog.name}.") and family.name not in current:
            continue
        found.add(str(bentoml.models.get(f"{family.name}:latest").tag))
    return found


def _find_bento_models() -> set[str]:
    return {str(model.tag) for bento in bentoml.list() for model in bento.info.all_models}


def _read_components(entries: Iterable[str]) -> Iterator[str]:
    for tag in entries:
        name, _, version = tag.partition(":")
        manifest = store_root() / name / version / "entry.json"
        yield from json.loads(manifest.read_text(encoding="utf-8"))["components"].values()


def _is_entry(tag: str) -> bool:
    """Return whether a tag or name has the form `<catalog>.<section>.<name>[:version]`."""
    parts = tag.partition(":")[0].split(".")
    return len(parts) == 3 and parts[1] in SECTIONS
