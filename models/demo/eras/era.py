"""What the demo set knows of an era: how it is called in words, and how it is painted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from models.demo.eras.painting import Picture
from models.demo.fields import Field


@dataclass(frozen=True)
class Era:
    """A period of the artwork.

    `names` say the era outright and at least one of them is in every prompt; `details` are
    phrases that may follow. `paint` turns a height field into a picture of the same size.
    """

    key: str
    names: tuple[str, ...]
    details: tuple[str, ...]
    paint: Callable[[Field, np.random.Generator], Picture]
