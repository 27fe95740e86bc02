"""Era `modern`: a grid of concrete blocks and asphalt, with little green."""

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
    """Render a landscape covered by a city."""
    size = height.shape
    districts = voronoi(rng, size, rng.uniform(110, 140))
    turn = districts.draw(rng, 0, np.pi / 2)
    across, along = rotated(size, turn)
    block = (rng.uniform(22, 26), rng.uniform(22, 26))
    plot = _hash_squares(np.floor(across / block[0]), np.floor(along / block[1]), rng)
    house = _hash_squares(np.floor(across * 2 / block[0]), np.floor(along * 2 / block[1]), rng)
    land = ramp(
        height,
        [
            (SEA_LEVEL, (66, 66, 70)),
            (0.4, (98, 98, 101)),
            (0.6, (138, 137, 137)),
            (0.8, (186, 184, 182)),
            (1.0, (234, 232, 228)),
        ],
    )
    land = land * (0.9 + 0.24 * house)[..., None]
    land = over(land, flat((82, 92, 70)), 0.8 * (plot > 0.94))
    inner = np.minimum(grid_distance(across, block[0] / 2), grid_distance(along, block[1] / 2))
    land = land * (1 - 0.2 * line(inner, 1.6))[..., None]
    streets = np.minimum(grid_distance(across, block[0]), grid_distance(along, block[1]))
    avenues = np.minimum(grid_distance(across, 3 * block[0]), grid_distance(along, 3 * block[1]))
    shade = hillshade(height, 1.15) * (1 - 0.2 * hollows(height))
    asphalt = flat((36, 37, 42))
    land = over(land, asphalt, 0.92 * line(streets, 3.4))
    land = over(land, asphalt, line(avenues, 5.4))
    land = over(land, asphalt, line(districts.edge, 5))
    land = over(land, flat((214, 206, 180)), 0.8 * line(districts.edge, 0.6))
    land = land * (0.26 + 0.76 * shade)[..., None]
    water = ramp(height, [(0, (12, 16, 24)), (0.12, (26, 38, 50)), (SEA_LEVEL, (58, 76, 88))])
    distance = shore_distance(height)
    picture = over(water, land, distance + 0.5)
    return over(picture, flat((206, 204, 198)), 0.9 * np.clip(1.3 - np.abs(distance - 0.4), 0, 1))


def _hash_squares(row: Field, column: Field, rng: np.random.Generator) -> Field:
    """Return a deterministic number in [0, 1) per grid square (the sine hash of shaders)."""
    hashed = np.sin(row * 127.1 + column * 311.7 + rng.uniform(0, 100)) * 43758.547
    return (hashed - np.floor(hashed)).astype(np.float32)


MODERN = Era(
    key="modern",
    names=("modern city", "modern", "modern metropolis", "1960s city"),
    details=(
        "concrete and asphalt",
        "dense street grid",
        "grey buildings",
        "highways",
        "parking lots",
        "office blocks",
        "urban sprawl",
        "traffic",
    ),
    paint=paint,
)
