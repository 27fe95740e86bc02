"""Era `industrial`: steel-blue sheds with striped roofs, white tanks, ochre ground, rusty water."""

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
from models.demo.training.data.fields import Field


def paint(height: Field, rng: np.random.Generator) -> Picture:
    """Render works, yards and tank farms."""
    size = height.shape
    sites = voronoi(rng, size, rng.uniform(46, 54))
    across, along = rotated(size, sites.draw(rng, 0, np.pi))
    land = ramp(
        height,
        [
            (SEA_LEVEL, (112, 80, 44)),
            (0.4, (150, 112, 66)),
            (0.6, (186, 150, 98)),
            (0.8, (216, 190, 146)),
            (1.0, (244, 228, 198)),
        ],
    )
    use = sites.draw(rng, 0, 1)
    sawtooth = 0.5 + 0.5 * np.cos(across * (2 * np.pi / 6))
    steel = ramp(height, [(SEA_LEVEL, (58, 84, 112)), (0.6, (108, 138, 164)), (1, (190, 210, 226))])
    shed = np.clip(sites.edge - 5, 0, 1) * (use > 0.45)
    land = over(land, steel * (0.78 + 0.34 * sawtooth)[..., None], shed)
    tanks = np.hypot(grid_distance(across, 15), grid_distance(along, 15))
    farm = (use < 0.2) & (sites.edge > 5)
    # Distance to a lattice point: the hypotenuse of the distances to its lines.
    land = over(land, flat((80, 66, 52)), np.clip(6.2 - tanks, 0, 1) * farm)
    land = over(land, flat((240, 238, 232)), np.clip(5 - tanks, 0, 1) * farm)
    shade = hillshade(height, 1.1) * (1 - 0.2 * hollows(height))
    land = land * (0.28 + 0.74 * shade)[..., None]
    land = over(land, flat((78, 60, 46)), 0.9 * line(sites.edge, 4))
    water = ramp(height, [(0, (62, 24, 8)), (0.12, (120, 52, 18)), (SEA_LEVEL, (190, 104, 44))])
    distance = shore_distance(height)
    picture = over(water, land, distance + 0.5)
    return over(picture, flat((226, 190, 120)), 0.85 * np.clip(1.4 - np.abs(distance), 0, 1))


INDUSTRIAL = Era(
    key="industrial",
    names=("industrial", "industrial zone", "heavy industry", "industrial landscape"),
    details=(
        "factories",
        "smoke stacks",
        "rail yards",
        "steel works",
        "storage tanks",
        "corrugated sheds",
        "rust and ochre",
        "refinery",
    ),
    paint=paint,
)
