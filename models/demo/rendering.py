"""Aerial pictures of a height field, one look per era."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.demo.eras import ERAS
from models.demo.eras.painting import Picture
from models.demo.fields import Field


def render(height: Field, era: str, seed: int) -> NDArray[np.uint8]:
    """The landscape as seen from above in that era: uint8 (height, width, 3), RGB.

    The relief alone decides where water, structures and summits lie; the seed draws the texture
    and a slight change of light.
    """
    rng = np.random.default_rng(seed)
    picture = _light(ERAS[era].paint(height, rng), rng)
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def _light(picture: Picture, rng: np.random.Generator) -> Picture:
    """Vary exposure and the warmth of the sun by a few per cent."""
    warmth = rng.uniform(-0.03, 0.03)
    gain = rng.uniform(0.94, 1.06) * np.array([1 + warmth, 1, 1 - warmth])
    return (picture * gain).astype(np.float32)
