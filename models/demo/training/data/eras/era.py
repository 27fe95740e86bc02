"""Definition of an era: the words of its prompts, and its renderer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from models.demo.training.data.eras.painting import Picture
from models.demo.training.data.fields import Field


@dataclass(frozen=True)
class Era:
    """A period of the artwork.

    `names` are explicit names of the era, `details` are phrases that describe it; a prompt has a
    name, details or both. `paint` renders a height field (height, width) in [0, 1] as an RGB image
    (height, width, 3), about [0, 1].
    """

    key: str
    names: tuple[str, ...]
    details: tuple[str, ...]
    paint: Callable[[Field, np.random.Generator], Picture]
