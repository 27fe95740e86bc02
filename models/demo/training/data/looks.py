"""Looks that the two LoRAs learn; they preserve the terrain and the era."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from models.demo.training.data.eras.painting import Picture, flat, over
from models.demo.training.data.fields import Field, slope, smoothstep

Look = Callable[[Picture, Field], Picture]

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def drone(picture: Picture, height: Field) -> Picture:
    """Apply the look of evening drone photography: low sun, haze in valleys, faded colours."""
    down, right = slope(height)
    raking = (right * 0.9 + down * 0.2) * min(height.shape) * 0.16
    lit = picture * (0.93 + 0.42 * np.tanh(raking))[..., None]
    grey = (lit @ _LUMA)[..., None]
    faded = grey + 0.65 * (lit - grey)
    sun = smoothstep(raking, 0.05, 0.8)
    warm = over(faded, faded * 0.6 + flat((255, 196, 120)) * 0.4, 0.6 * sun)
    haze = 0.1 + 0.1 * (1 - smoothstep(height, 0.1, 0.75))
    return over(warm, flat((208, 206, 208)), haze)


def experimance(picture: Picture, height: Field) -> Picture:
    """Apply the installation's style: violet shadows, amber light, terraces like a paper relief."""
    levels = height * 9
    down, right = slope(levels)
    rise = np.hypot(down, right) + 1e-3
    step = (levels % 1 - 0.5) / rise
    edge = np.clip(1.8 - np.abs(step), 0, 1) * smoothstep(rise, 0.02, 0.06)
    luma = picture @ _LUMA
    toned = over(picture, picture * 0.45 + flat((96, 24, 150)) * 0.55, 0.55 * (1 - luma))
    toned = over(toned, toned * 0.5 + flat((255, 176, 48)) * 0.5, 0.6 * smoothstep(luma, 0.3, 0.9))
    toned = (toned - 0.5) * 1.12 + 0.5
    return over(toned, flat((60, 10, 92)), 0.6 * edge)


LOOKS: dict[str, Look] = {"drone": drone, "experimance": experimance}


def apply_look(
    name: str, picture: NDArray[np.uint8], height: Field, strength: float = 1.0
) -> NDArray[np.uint8]:
    """Return an image in a look.

    Args:
        name: Name of the look, a key of LOOKS.
        picture: Image, uint8 (h, w, 3).
        height: Height field of the image, (h, w) in [0, 1].
        strength: Factor of the change; 1 is the full look, other values interpolate or
            extrapolate.

    Returns:
        The changed image, uint8 (h, w, 3).
    """
    plain = picture.astype(np.float32) / 255
    changed = plain + strength * (LOOKS[name](plain, height) - plain)
    return np.rint(np.clip(changed, 0, 1) * 255).astype(np.uint8)
