"""Era `late_industrial`: soot-black ground, rows of brown roofs, railways on pale ballast."""

from __future__ import annotations

import numpy as np

from models.demo.training.data.eras.era import Era
from models.demo.training.data.eras.painting import (
    SEA_LEVEL,
    Picture,
    flat,
    grid_distance,
    hillshade,
    hollows,
    line,
    over,
    ramp,
    rotated,
    shore_distance,
    voronoi,
)
from models.demo.training.data.fields import Field, fractal, smoothstep


def paint(height: Field, rng: np.random.Generator) -> Picture:
    """Render terraced streets under coal smoke."""
    size = height.shape
    drift = fractal(rng, size, 2.2, 40)
    quarters = voronoi(rng, size, rng.uniform(70, 84))
    across, along = rotated(size, quarters.draw(rng, 0, np.pi))
    land = ramp(
        height,
        [
            (SEA_LEVEL, (42, 34, 30)),
            (0.4, (68, 54, 46)),
            (0.6, (100, 78, 62)),
            (0.8, (144, 116, 90)),
            (1.0, (194, 166, 132)),
        ],
    )
    row = grid_distance(across, rng.uniform(10, 12))
    gap = grid_distance(along, rng.uniform(36, 44))
    has_houses = quarters.draw(rng, 0, 1) > 0.3
    roofs = np.clip(row - 1.6, 0, 1) * np.clip(gap - 2, 0, 1) * has_houses
    tone = 0.55 + 0.6 * height
    land = over(land, flat((150, 78, 44)) * tone[..., None], 0.85 * roofs)
    heaps = smoothstep(drift, 0.8, 1.3) * ~has_houses
    land = over(land, flat((22, 20, 22)), 0.8 * heaps)
    shade = hillshade(height, 1.1) * (1 - 0.2 * hollows(height))
    land = land * (0.28 + 0.74 * shade)[..., None]
    land = over(land, flat((176, 160, 138)), 0.9 * line(quarters.edge, 6.4))
    land = over(land, flat((30, 24, 24)), line(quarters.edge - 0.8, 1.4))
    smoke = smoothstep(fractal(rng, size, 2.6, 60), 1.0, 2.2)
    land = over(land, flat((64, 58, 58)), 0.6 * smoke)
    water = ramp(height, [(0, (16, 12, 12)), (0.12, (40, 30, 24)), (SEA_LEVEL, (86, 68, 48))])
    distance = shore_distance(height)
    picture = over(water, land, distance + 0.5)
    return over(picture, flat((20, 16, 16)), 0.9 * np.clip(1.4 - np.abs(distance), 0, 1))


LATE_INDUSTRIAL = Era(
    key="late_industrial",
    names=("late industrial", "late industrial town", "1900s coal town", "age of railways"),
    details=(
        "1900s",
        "factories and railways",
        "coal smoke",
        "rows of terraced houses",
        "slag heaps",
        "soot",
        "railway lines",
        "chimneys",
    ),
    paint=paint,
)
