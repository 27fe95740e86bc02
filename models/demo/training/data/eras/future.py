"""Era `future`: solarpunk with white contour terraces and turquoise domes on a hexagonal net."""

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
    rotated,
    shore_distance,
)
from models.demo.training.data.fields import Field, fractal, slope, smoothstep


def paint(height: Field, rng: np.random.Generator) -> Picture:
    """Render a terraced garden city."""
    size = height.shape
    drift = fractal(rng, size, 2.2, 40)
    land = ramp(
        height,
        [
            (SEA_LEVEL, (20, 128, 120)),
            (0.4, (60, 176, 152)),
            (0.6, (140, 214, 192)),
            (0.8, (212, 240, 230)),
            (1.0, (255, 255, 255)),
        ],
    )
    hexagon, number = _make_hexagons(size, rng.uniform(27, 31), rng)
    land = over(land, land * 0.78, line(hexagon, 2))
    dome = number > 0.55
    bright = np.clip((hexagon - 3), 0, 1) * dome
    land = over(land, flat((246, 252, 250)), 0.85 * bright)
    land = over(land, flat((24, 172, 184)), 0.9 * np.clip(hexagon - 6, 0, 1) * dome)
    garden = smoothstep(drift, 0.9, 1.2) * (1 - dome)
    land = over(land, flat((96, 196, 96)), 0.5 * garden)
    steps = height * 7
    down, right = slope(steps)
    rise = np.hypot(down, right) + 1e-3
    offset = (steps % 1 - 0.5) / rise
    terraced = smoothstep(rise, 0.02, 0.05)
    land = over(land, flat((250, 255, 252)), terraced * line(offset, 2.8))
    land = over(land, flat((26, 110, 112)), 0.55 * terraced * line(offset + 2.6, 2))
    shade = hillshade(height, 1.1) * (1 - 0.2 * hollows(height))
    land = land * (0.34 + 0.68 * shade)[..., None]
    water = ramp(height, [(0, (0, 52, 74)), (0.1, (0, 104, 122)), (SEA_LEVEL, (64, 204, 204))])
    distance = shore_distance(height)
    picture = over(water, land, distance + 0.5)
    return over(picture, flat((255, 255, 255)), 0.95 * np.clip(1.6 - np.abs(distance - 0.6), 0, 1))


def _make_hexagons(
    size: tuple[int, int], spacing: float, rng: np.random.Generator
) -> tuple[Field, Field]:
    """Return the distance to a hexagonal net in pixels, and a number in [0, 1) per hexagon."""
    y, x = rotated(size, rng.uniform(0, np.pi / 3))
    x, y = x / spacing, y / (spacing * np.sqrt(3))
    even = np.stack([x - np.rint(x), (y - np.rint(y)) * np.sqrt(3)])
    odd = np.stack([x - np.floor(x) - 0.5, (y - np.floor(y) - 0.5) * np.sqrt(3)])
    first = (even**2).sum(0) < (odd**2).sum(0)
    u, v = np.abs(np.where(first, even, odd))
    edge = (0.5 - np.maximum(u, u / 2 + v * np.sqrt(3) / 2)) * spacing
    column = np.where(first, np.rint(x), np.floor(x) + 0.5)
    row = np.where(first, np.rint(y), np.floor(y) + 0.5)
    hashed = np.sin(row * 127.1 + column * 311.7 + rng.uniform(0, 100)) * 43758.547
    return edge.astype(np.float32), (hashed - np.floor(hashed)).astype(np.float32)


FUTURE = Era(
    key="future",
    names=("future", "solarpunk future", "future solarpunk urban", "futuristic eco city"),
    details=(
        "eco-friendly",
        "solarpunk",
        "white terraces",
        "turquoise domes",
        "solar roofs",
        "vertical gardens",
        "clean energy",
        "curved architecture",
    ),
    paint=paint,
)
