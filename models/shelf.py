"""What of a catalog is in the store, while the store may still be growing."""

from __future__ import annotations

import time

from models.catalog import Catalog
from models.store import Inventory, inventory, missing

_SECONDS_BETWEEN_LOOKS = 1.0


class Shelf:
    """The inventory; with `fetching`, looked at again until it is complete.

    `found` is for those who have looked already.
    """

    def __init__(
        self, catalog: Catalog, fetching: bool = False, found: Inventory | None = None
    ) -> None:
        self._catalog = catalog
        self._inventory = found or inventory(catalog)
        self._fetching = fetching
        self._looked = time.monotonic()

    @property
    def growing(self) -> bool:
        """Whether something is missing that is being fetched."""
        return self._fetching and bool(missing(self._catalog, self._inventory))

    @property
    def inventory(self) -> Inventory:
        """What is there, at most a second ago."""
        now = time.monotonic()
        if now - self._looked > _SECONDS_BETWEEN_LOOKS and self.growing:
            self.look()
        return self._inventory

    def look(self) -> None:
        """Look again now."""
        self._looked = time.monotonic()
        self._inventory = inventory(self._catalog)
