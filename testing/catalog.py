"""The demo catalog, for those who need no networks: importing torch takes seconds."""

from __future__ import annotations

from functools import lru_cache

from models.catalog import Catalog, load_catalog


@lru_cache
def demo_catalog() -> Catalog:
    """The demo catalog as shipped."""
    return load_catalog("demo")
