"""Era `dystopia`: violet-black megablocks with neon veins, around lakes of acid green."""

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
from models.demo.training.data.fields import Field, fractal, smoothstep


def paint(height: Field, rng: np.random.Generator) -> Picture:
    """Render a polluted megacity at night."""
    size = height.shape
    drift = fractal(rng, size, 2.4, 50)
    blocks = voronoi(rng, size, rng.uniform(20, 24))
    sectors = voronoi(rng, size, rng.uniform(78, 92))
    land = ramp(
        height + 0.03 * blocks.draw(rng, -1, 1),
        [
            (SEA_LEVEL, (24, 14, 38)),
            (0.4, (48, 28, 68)),
            (0.6, (82, 48, 104)),
            (0.8, (132, 84, 146)),
            (1.0, (198, 148, 200)),
        ],
    )
    land = land * (0.82 + 0.3 * np.clip(blocks.edge / 6, 0, 1))[..., None]
    land = over(land, flat((10, 6, 18)), 0.9 * line(blocks.edge, 3))
    shade = hillshade(height, 1.1) * (1 - 0.2 * hollows(height))
    land = land * (0.3 + 0.72 * shade)[..., None]
    lit = (blocks.draw(rng, 0, 1) > 0.86) * np.clip(blocks.edge - 4, 0, 1)
    land = over(land, flat((84, 226, 236)), 0.75 * lit)
    land = over(land, flat((150, 24, 104)), 0.7 * line(sectors.edge, 7))
    land = over(land, flat((255, 72, 176)), line(sectors.edge, 3))
    smog = smoothstep(drift, 0.9, 2.0)
    land = over(land, flat((112, 92, 78)), 0.5 * smog)
    water = ramp(height, [(0, (20, 54, 6)), (0.12, (62, 128, 10)), (SEA_LEVEL, (168, 232, 40))])
    distance = shore_distance(height)
    picture = over(water, land, distance + 0.5)
    return over(picture, flat((8, 12, 10)), 0.9 * np.clip(1.4 - np.abs(distance), 0, 1))


DYSTOPIA = Era(
    key="dystopia",
    names=("dystopia", "dystopian megacity", "dystopian nightmare city", "polluted megacity"),
    details=(
        "polluted",
        "neon lights",
        "megablocks",
        "acid lakes",
        "toxic smog",
        "night",
        "surveillance state",
        "climate collapse",
    ),
    paint=paint,
)
