"""Check of an adapter file at import against the variants of the store."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from models.conversion.config import CONFIG_NAME
from models.conversion.safetensors_io import WeightsError
from models.lora.contents import read_contents
from models.lora.layer_table import PARTS, LayerTable, sdxl_table
from models.store.store import CatalogEntry


def variant_table(variant: CatalogEntry) -> LayerTable:
    """Return the layers of a variant in the store."""
    return LayerTable(
        {
            part: json.loads(
                (variant.components[part].path / CONFIG_NAME).read_text(encoding="utf-8")
            )
            for part in PARTS
        }
    )


def check_adapter(file: Path, variants: Iterable[CatalogEntry]) -> list[str]:
    """Check that an adapter file fits at least one variant.

    Args:
        file: the safetensors file.
        variants: variants in the store; without any, SDXL's published size counts.

    Returns:
        One sentence for each part that is not applied, and for each variant that it does not fit.

    Raises:
        WeightsError: the file fits no variant; the message says what it is.
    """
    tables = {variant.name: variant_table(variant) for variant in variants}
    notes: list[str] = []
    refusals: dict[str, WeightsError] = {}
    for name, table in (tables or {"": sdxl_table()}).items():
        try:
            warning = read_contents(file, table).warning
        except WeightsError as error:
            refusals[name] = error
            continue
        if warning is not None and warning not in notes:
            notes.append(warning)
    if len(refusals) == max(len(tables), 1):
        raise next(iter(refusals.values()))
    return notes + [f"does not fit model {name}" for name in refusals]
