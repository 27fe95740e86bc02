"""Removing from the store what nothing refers to any more."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import bentoml

from models.catalog import Catalog
from models.staging import remove, store_root, sweep_staging
from models.store import SECTIONS, entry_name

_COMPONENT = "sdxl-"


def prune(catalog: Catalog, downloads: Path) -> Iterator[tuple[str, int]]:
    """Remove old versions of entries, entries that left the catalog, components of no entry.

    Other catalogs' entries in use and everything that a built Bento refers to stay. Leftovers of
    unfinished imports go too. For the holder of the import lock.

    Args:
        catalog: whose entries are checked against its present content.
        downloads: where unfinished downloads lie.

    Yields:
        What was removed, and its bytes.
    """
    kept = _entries_in_use(catalog) | _in_bentos()
    tags = [str(model.tag) for model in bentoml.models.list()]
    entries = [tag for tag in tags if _is_entry(tag)]
    used = set(kept) | set(_components(tag for tag in entries if tag in kept))
    for tag in tags:
        ours = tag.startswith(_COMPONENT) or _is_entry(tag)
        if ours and tag not in used:
            yield tag, remove(tag)
    left = sum(file.stat().st_size for file in downloads.rglob("*") if file.is_file())
    if left:
        shutil.rmtree(downloads)
        yield "unfinished downloads", left
    sweep_staging()


def _entries_in_use(catalog: Catalog) -> set[str]:
    """The latest version of every entry, but for those that left this catalog."""
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


def _in_bentos() -> set[str]:
    return {str(model.tag) for bento in bentoml.list() for model in bento.info.all_models}


def _components(entries: Iterable[str]) -> Iterator[str]:
    for tag in entries:
        name, _, version = tag.partition(":")
        manifest = store_root() / name / version / "entry.json"
        yield from json.loads(manifest.read_text(encoding="utf-8"))["components"].values()


def _is_entry(tag: str) -> bool:
    """`<catalog>.<section>.<name>`, with a version or without."""
    parts = tag.partition(":")[0].split(".")
    return len(parts) == 3 and parts[1] in SECTIONS
