"""Era `wilderness`: forest, blue lakes in the hollows, rock and snow on the ridges."""

from __future__ import annotations

import numpy as np

from models.demo.training.data.eras.era import Era
from models.demo.training.data.eras.painting import (
    SEA_LEVEL,
    Picture,
    flat,
    hillshade,
    hollows,
    over,
    ramp,
    shore_distance,
)
from models.demo.training.data.fields import Field, fractal, smoothstep, speckle


def paint(height: Field, rng: np.random.Generator) -> Picture:
    """Render a forested landscape."""
    size = height.shape
    drift = fractal(rng, size, 2.2, 40)
    crowns = speckle(rng, size, 2.4)
    rock = fractal(rng, size, 2.0, 16)
    wooded = height + 0.02 * drift
    land = ramp(
        wooded,
        [
            (SEA_LEVEL, (112, 138, 62)),
            (0.32, (58, 112, 46)),
            (0.52, (26, 78, 38)),
            (0.62, (64, 92, 52)),
            (0.68, (122, 112, 92)),
            (0.78, (138, 128, 116)),
            (1.0, (160, 152, 146)),
        ],
    )
    forest = smoothstep(wooded, 0.25, 0.34) * (1 - smoothstep(wooded, 0.6, 0.68))
    land = land * (1 + (0.15 * forest * crowns + 0.08 * (1 - forest) * rock)[..., None])
    clearing = smoothstep(drift, 1.1, 1.4) * forest
    land = over(land, flat((126, 150, 72)), 0.7 * clearing)
    snow = smoothstep(height + 0.025 * rock + 0.015 * drift, 0.77, 0.81)
    land = over(land, flat((246, 249, 255)), snow)
    shade = hillshade(height + 0.003 * forest * crowns, 1.15) * (1 - 0.22 * hollows(height))
    land = land * (0.26 + 0.76 * shade)[..., None]
    water = ramp(
        height,
        [
            (0, (6, 26, 66)),
            (0.1, (14, 58, 118)),
            (0.19, (34, 104, 162)),
            (SEA_LEVEL, (96, 170, 190)),
        ],
    )
    distance = shore_distance(height)
    picture = over(water, land, distance + 0.5)
    return over(picture, flat((224, 208, 160)), 0.8 * np.clip(1.4 - np.abs(distance - 0.8), 0, 1))


WILDERNESS = Era(
    key="wilderness",
    names=("wilderness", "untouched wilderness", "pristine nature", "wild nature"),
    details=(
        "late afternoon sunlight",
        "untouched forest",
        "ancient forests",
        "clear blue lakes",
        "snow on the ridges",
        "no sign of people",
        "old growth trees",
        "rivers and lakes",
    ),
    paint=paint,
)
