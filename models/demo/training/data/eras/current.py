"""Era `current`: terracotta blocks around green courtyards, parks, and clear water."""

from __future__ import annotations

import numpy as np

from models.demo.training.data.eras.era import Era
from models.demo.training.data.eras.painting import (
    SEA_LEVEL,
    Picture,
    flat,
    hillshade,
    hollows,
    line,
    over,
    ramp,
    shore_distance,
    voronoi,
)
from models.demo.training.data.fields import Field, fractal, smoothstep, speckle


def paint(height: Field, rng: np.random.Generator) -> Picture:
    """Render a dense city of perimeter blocks with trees."""
    size = height.shape
    drift = fractal(rng, size, 2.2, 48)
    crowns = speckle(rng, size, 1.8)
    blocks = voronoi(rng, size, rng.uniform(24, 28))
    land = ramp(
        height + 0.03 * blocks.draw(rng, -1, 1),
        [
            (SEA_LEVEL, (140, 66, 48)),
            (0.4, (182, 92, 66)),
            (0.6, (214, 128, 96)),
            (0.8, (238, 178, 146)),
            (1.0, (255, 226, 204)),
        ],
    )
    green = ramp(height, [(SEA_LEVEL, (38, 84, 44)), (0.6, (74, 132, 66)), (1.0, (150, 196, 122))])
    green = green * (1 + 0.14 * crowns)[..., None]
    land = over(land, green, np.clip(blocks.edge - 7.5, 0, 1))
    park = smoothstep(drift, 0.75, 0.95)
    land = over(land, green, park)
    streets = flat((232, 222, 206))
    land = over(land, streets, 0.95 * line(blocks.edge, 4) * (1 - 0.8 * park))
    boulevards = voronoi(rng, size, rng.uniform(95, 115))
    land = over(land, flat((58, 104, 56)), line(boulevards.edge, 8))
    land = over(land, flat((244, 236, 222)), line(boulevards.edge, 3.4))
    shade = hillshade(height, 1.1) * (1 - 0.2 * hollows(height))
    land = land * (0.3 + 0.72 * shade)[..., None]
    water = ramp(height, [(0, (10, 62, 104)), (0.12, (22, 110, 152)), (SEA_LEVEL, (90, 196, 214))])
    distance = shore_distance(height)
    picture = over(water, land, distance + 0.5)
    return over(picture, flat((250, 234, 196)), 0.9 * np.clip(1.8 - np.abs(distance - 1), 0, 1))


CURRENT = Era(
    key="current",
    names=("present day", "present day city", "contemporary city", "twenty-first century"),
    details=(
        "dense city",
        "terracotta roofs",
        "green courtyards",
        "tree-lined boulevards",
        "public parks",
        "perimeter blocks",
        "bicycle lanes",
        "waterfront promenade",
    ),
    paint=paint,
)
