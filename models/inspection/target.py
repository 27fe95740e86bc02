"""Models that a weight file is compared with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.conversion.checkpoint import CHECKPOINT_PARTS
from models.conversion.config import SDXL
from models.inspection.catalog_entry import BASE


@dataclass(frozen=True, slots=True)
class Target:
    """A model that a file may fit.

    It has a label, its networks' configuration files, and the source and image size of a catalog
    entry for a part of it.
    """

    label: str
    configs: Mapping[str, Path]
    source: str = BASE
    native_size: int = 1024

    def read_config(self, part: str) -> Any:
        """Return the configuration of a network."""
        return json.loads(self.configs[part].read_text(encoding="utf-8"))


PUBLISHED = Target("SDXL", {part: SDXL / f"{part}.json" for part in CHECKPOINT_PARTS})
"""SDXL at its published size."""
