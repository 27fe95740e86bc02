"""A kind of weight file: how it is written, and what the import must make of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from models.store.store import CatalogEntry

Outcome = Literal["exact", "left out", "refused"]
"""Applied exactly; applied exactly but for parts that a note names; refused by name at import."""

Measure = Callable[[CatalogEntry], float]
"""Function that applies an imported entry and returns its error relative to the right effect.

Its entry is in the active store. It raises if the entry cannot be applied.
"""


@dataclass(frozen=True, slots=True)
class WrittenKind:
    """Files of a kind: the lines of a catalog that import them, and the measurement of the result.

    `section` and `name` are the catalog's for the entry that the lines add. `measure` is None for
    a kind that must be refused.
    """

    section: Literal["models", "controlnets", "loras"]
    name: str
    lines: str
    measure: Measure | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of weight file.

    `write` writes it into an empty folder. `named` are words of the note or of the refusal, in any
    case of letters.
    """

    name: str
    outcome: Outcome
    write: Callable[[Path], WrittenKind]
    named: tuple[str, ...] = ()
