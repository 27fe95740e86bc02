"""The demo catalog and its weights, for users without networks: importing torch takes seconds."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from models.catalog import Catalog, load_catalog

WEIGHTS = Path(__file__).parent.parent / "models" / "demo" / "weights"
"""Folder of the demo set."""


@lru_cache
def demo_catalog() -> Catalog:
    """Return the shipped demo catalog."""
    return load_catalog("demo")
