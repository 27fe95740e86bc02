"""Rendering of a height field as an aerial image of an era."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.demo.training.data.eras import ERAS
from models.demo.training.data.eras.painting import Picture
from models.demo.training.data.fields import Field


def render(height: Field, era: str, seed: int) -> NDArray[np.uint8]:
    """Render a landscape in an era, seen from above.

    Only the relief determines the positions of water, structures and summits. The seed determines
    the texture and a slight change of light.

    Args:
        height: Height field (height, width) in [0, 1].
        era: Name of the era, a key of ERAS.
        seed: Seed of texture and light.

    Returns:
        RGB image, uint8 (height, width, 3).
    """
    rng = np.random.default_rng(seed)
    picture = _vary_light(ERAS[era].paint(height, rng), rng)
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def _vary_light(picture: Picture, rng: np.random.Generator) -> Picture:
    """Vary exposure by up to 6 % and the colour temperature by up to 3 %."""
    warmth = rng.uniform(-0.03, 0.03)
    gain = rng.uniform(0.94, 1.06) * np.array([1 + warmth, 1, 1 - warmth])
    return (picture * gain).astype(np.float32)
