"""Era `ruins`: broken pale walls on a street plan, covered by moss and ivy, and dark pools."""

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
from models.demo.training.data.fields import Field, fractal, smoothstep, speckle


def paint(height: Field, rng: np.random.Generator) -> Picture:
    """Render an overgrown abandoned city."""
    size = height.shape
    decay = fractal(rng, size, 1.8, 22)
    ivy = speckle(rng, size, 2.2)
    districts = voronoi(rng, size, rng.uniform(100, 125))
    across, along = rotated(size, districts.draw(rng, 0, np.pi / 2))
    land = ramp(
        height,
        [
            (SEA_LEVEL, (84, 90, 78)),
            (0.4, (118, 120, 106)),
            (0.6, (150, 148, 134)),
            (0.8, (184, 180, 166)),
            (1.0, (222, 218, 206)),
        ],
    )
    wall = np.minimum(grid_distance(across, 13), grid_distance(along, 17))
    standing = smoothstep(-decay, -0.5, 0.1)
    land = over(land, flat((232, 226, 208)), 0.9 * standing * line(wall, 2.8))
    land = over(land, flat((62, 62, 56)), 0.7 * standing * line(wall - 2.6, 1.6))
    moss = ramp(height, [(SEA_LEVEL, (58, 74, 30)), (0.6, (104, 118, 48)), (1.0, (170, 178, 104))])
    overgrowth = smoothstep(decay + 0.5 * ivy, 0.1, 0.9)
    land = over(land, moss * (1 + 0.14 * ivy)[..., None], 0.9 * overgrowth)
    shade = hillshade(height, 1.15) * (1 - 0.22 * hollows(height))
    land = land * (0.28 + 0.74 * shade)[..., None]
    algae = smoothstep(decay, 0.4, 1.0)
    water = ramp(height, [(0, (18, 28, 26)), (0.12, (38, 54, 46)), (SEA_LEVEL, (84, 100, 76))])
    water = over(water, flat((86, 112, 40)), 0.5 * algae)
    distance = shore_distance(height)
    picture = over(water, land, distance + 0.5)
    return over(picture, flat((150, 146, 120)), 0.7 * np.clip(1.3 - np.abs(distance), 0, 1))


RUINS = Era(
    key="ruins",
    names=("ruins", "overgrown ruins", "abandoned city", "post-human ruins"),
    details=(
        "overgrown",
        "abandoned",
        "crumbling walls",
        "moss and ivy",
        "collapsed roofs",
        "nature reclaiming the city",
        "broken streets",
        "silent and empty",
    ),
    paint=paint,
)
