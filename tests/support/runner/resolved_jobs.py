"""Requests resolved against the production catalog."""

from __future__ import annotations

from typing import Any

from api.handlers.resolve import RequestResolver, ResolvedRequest
from api.schemas.requests import GenerateRequest
from models.catalog import load_catalog
from models.store.inventory import Inventory, LiveInventory
from models.store.store import CatalogEntry

CATALOG = load_catalog("experimance")


def live_inventory(found: Inventory, fetching: bool = False) -> LiveInventory:
    return LiveInventory(CATALOG, fetching, found)


def inventory(
    loras: tuple[str, ...] = ("drone", "experimance"),
    estimators: tuple[str, ...] = ("depth_anything", "zoe"),
) -> Inventory:
    def entries(section: Any, names: Any) -> dict[str, CatalogEntry]:
        return {name: CatalogEntry(section, name, f"{name}:1", "1", {}) for name in names}

    return Inventory(
        entries("models", ("lightning", "base")),
        entries("controlnets", ("sdxl_small",)),
        entries("loras", loras),
        entries("depth_estimators", estimators),
    )


def resolved(resolver: RequestResolver | None = None, **fields: Any) -> ResolvedRequest:
    request = GenerateRequest(**{"prompt": "hills", "mock_depth": True, **fields})
    resolver = resolver or RequestResolver(CATALOG, live_inventory(inventory()))
    return resolver.resolve(request, "id", arrived=100.0, previews=False)
