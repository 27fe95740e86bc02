"""The demo catalog, for users without networks: importing torch takes seconds."""

from __future__ import annotations

from functools import lru_cache

from models.catalog import Catalog, load_catalog


@lru_cache
def demo_catalog() -> Catalog:
    """Return the shipped demo catalog."""
    return load_catalog("demo")
