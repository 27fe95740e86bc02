"""What a Bento carries: the models of its catalog, and no others."""

from __future__ import annotations

from bentoml.models import BentoModel

from models.catalog import Catalog
from models.store import SECTIONS, inventory


def bundled(catalog: Catalog) -> list[BentoModel]:
    """References to every entry of the catalog that is in the store, and to its components."""
    found = inventory(catalog)
    entries = [entry for section in SECTIONS for entry in getattr(found, section).values()]
    tags = {entry.tag for entry in entries}
    tags |= {part.tag for entry in entries for part in entry.components.values()}
    return [BentoModel(tag) for tag in sorted(tags)]
