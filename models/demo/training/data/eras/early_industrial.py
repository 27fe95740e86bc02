"""Era `early_industrial`: damp pasture, brick mill towns, and straight canals with towpaths."""

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
    """Render enclosed pastures between mill towns."""
    size = height.shape
    drift = fractal(rng, size, 2.2, 40)
    pastures = voronoi(rng, size, rng.uniform(33, 39), 2 * drift)
    land = ramp(
        height + 0.02 * pastures.draw(rng, -1, 1),
        [
            (SEA_LEVEL, (74, 88, 64)),
            (0.4, (104, 122, 84)),
            (0.6, (142, 150, 112)),
            (0.8, (178, 172, 148)),
            (1.0, (214, 206, 190)),
        ],
    )
    hedge = flat((46, 58, 44))
    land = over(land, hedge, 0.85 * line(pastures.edge, 2.2))
    land = _draw_mill_towns(size, rng, land)
    shade = hillshade(height, 1.1) * (1 - 0.2 * hollows(height))
    land = land * (0.28 + 0.74 * shade)[..., None]
    canals = voronoi(rng, size, rng.uniform(95, 115))
    low = 1 - smoothstep(height, 0.55, 0.75)
    land = over(land, flat((188, 168, 134)), 0.8 * low * line(canals.edge, 6))
    land = over(land, flat((70, 112, 132)), low * line(canals.edge, 3.4))
    water = ramp(height, [(0, (26, 44, 56)), (0.12, (50, 84, 98)), (SEA_LEVEL, (110, 146, 150))])
    distance = shore_distance(height)
    picture = over(water, land, distance + 0.5)
    return over(picture, flat((120, 108, 84)), 0.85 * np.clip(1.3 - np.abs(distance), 0, 1))


def _draw_mill_towns(size: tuple[int, int], rng: np.random.Generator, land: Picture) -> Picture:
    """Draw clusters of brick roofs under drifting steam."""
    towns = voronoi(rng, size, 64)
    roofs = voronoi(rng, size, 10)
    is_built = (towns.edge > rng.uniform(9, 13)) & (towns.draw(rng, 0, 1) > 0.3)
    yards = over(land, flat((112, 92, 80)), 0.8 * is_built)
    tone = roofs.draw(rng, 0.75, 1.2)[..., None]
    town = over(yards, flat((164, 70, 52)) * tone, np.clip(roofs.edge - 0.8, 0, 1) * is_built)
    steam = smoothstep(speckle(rng, size, 7), 1.2, 1.9) * is_built
    return over(town, flat((226, 224, 220)), 0.6 * steam)


EARLY_INDUSTRIAL = Era(
    key="early_industrial",
    names=("early industrial", "early industrial valley", "1800s mill town", "age of canals"),
    details=(
        "1800s",
        "first mills and canals",
        "brick mills",
        "hedged pastures",
        "water wheels",
        "steam engines",
        "straight canals",
        "weavers' cottages",
    ),
    paint=paint,
)
