"""Inventory of a catalog's entries in the store, during and after an import."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from bentoml.models import BentoModel

from models.catalog import Catalog
from models.catalog.schema import SECTIONS
from models.store.store import CatalogEntry, Component, StoreError, digest_files, get_entry

_REFRESH_SECONDS = 1.0


class LiveInventory:
    """Cached inventory; with `fetching`, refreshed until it is complete.

    `found` is an existing inventory to start with.
    """

    def __init__(
        self, catalog: Catalog, fetching: bool = False, found: Inventory | None = None
    ) -> None:
        self._catalog = catalog
        self._inventory = found or inventory(catalog)
        self._fetching = fetching
        self._refreshed_at = time.monotonic()

    @property
    def is_fetching(self) -> bool:
        """Whether entries are missing and an import is in progress."""
        return self._fetching and bool(missing_entries(self._catalog, self._inventory))

    @property
    def inventory(self) -> Inventory:
        """The inventory, at most 1 s old during an import."""
        now = time.monotonic()
        if now - self._refreshed_at > _REFRESH_SECONDS and self.is_fetching:
            self.refresh()
        return self._inventory

    def refresh(self) -> None:
        """Read the inventory again."""
        self._refreshed_at = time.monotonic()
        self._inventory = inventory(self._catalog)


@dataclass(frozen=True, slots=True)
class Inventory:
    """Entries of a catalog that are in the store, by section and name."""

    models: Mapping[str, CatalogEntry]
    controlnets: Mapping[str, CatalogEntry]
    loras: Mapping[str, CatalogEntry]
    depth_estimators: Mapping[str, CatalogEntry] = field(default_factory=dict)


def inventory(catalog: Catalog) -> Inventory:
    """Return all entries of the catalog that are in the store.

    Raises:
        StoreError: an entry or a component exists but is unreadable.
    """
    found: dict[str, dict[str, CatalogEntry]] = {section: {} for section in SECTIONS}
    for section in SECTIONS:
        for name in getattr(catalog, section):
            entry = get_entry(catalog, section, name)
            if entry is not None:
                found[section][name] = entry
    return Inventory(**found)


def pick_default(there: Mapping[str, CatalogEntry], preferred: str) -> str:
    """Return `preferred` if it is in `there` or `there` is empty, else the first in `there`."""
    return preferred if preferred in there else next(iter(there), preferred)


def missing_entries(catalog: Catalog, found: Inventory) -> list[str]:
    """Return the catalog's entries that are not in the store, as `section.name`."""
    return [
        f"{section}.{name}"
        for section in SECTIONS
        for name in getattr(catalog, section)
        if name not in getattr(found, section)
    ]


def import_hint(catalog: Catalog, names: list[str]) -> str:
    """Return a message with the missing entries and the command that imports them."""
    return (
        f"weights of catalog {catalog.name!r} are missing from the model store: "
        f"{', '.join(names)}. Import them with: "
        f"python -m models import --catalog {catalog.argument}"
    )


def require_servable(catalog: Catalog) -> Inventory:
    """Return the inventory if it has at least a variant and a ControlNet.

    Raises:
        StoreError: One of them is missing, and the message has the command that imports it; or an
            entry is unreadable.
    """
    found = inventory(catalog)
    if not found.models or not found.controlnets:
        raise StoreError(import_hint(catalog, missing_entries(catalog, found)))
    return found


def find_corrupt(found: Inventory) -> Iterator[Component]:
    """Yield components whose files differ from the digest in their tag."""
    seen: set[str] = set()
    for section in SECTIONS:
        for entry in getattr(found, section).values():
            for component in entry.components.values():
                if component.tag in seen:
                    continue
                seen.add(component.tag)
                files = [
                    str(file.relative_to(component.path))
                    for file in component.path.rglob("*")
                    if file.is_file() and file.name != "model.yaml"
                ]
                if digest_files(component.path, files) != component.tag.partition(":")[2]:
                    yield component


def bento_models(catalog: Catalog) -> list[BentoModel]:
    """Return references to the catalog's entries in the store and to their components."""
    found = inventory(catalog)
    entries = [entry for section in SECTIONS for entry in getattr(found, section).values()]
    tags = {entry.tag for entry in entries}
    tags |= {part.tag for entry in entries for part in entry.components.values()}
    return [BentoModel(tag) for tag in sorted(tags)]
