"""Era `pre_industrial`: a golden patchwork of fields, thatched hamlets, dirt tracks."""

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
    voronoi,
)
from models.demo.training.data.fields import Field, fractal, smoothstep


def paint(height: Field, rng: np.random.Generator) -> Picture:
    """Render a landscape of subsistence farming."""
    size = height.shape
    drift = fractal(rng, size, 2.2, 40)
    parishes = voronoi(rng, size, rng.uniform(85, 110), 5 * drift)
    fields = voronoi(rng, size, rng.uniform(25, 31), 1.5 * drift)
    ripeness = fields.draw(rng, -1, 1)
    land = ramp(
        height + 0.035 * ripeness,
        [
            (SEA_LEVEL, (118, 92, 38)),
            (0.34, (160, 118, 42)),
            (0.52, (206, 160, 62)),
            (0.7, (232, 198, 112)),
            (0.85, (246, 226, 172)),
            (1.0, (255, 246, 220)),
        ],
    )
    land = over(land, flat((134, 128, 52)), 0.55 * (fields.draw(rng, 0, 1) > 0.82))
    along, _ = rotated(size, fields.draw(rng, 0, np.pi))
    furrows = np.cos(along * (2 * np.pi / 7))
    is_tilled = fields.draw(rng, 0, 1) > 0.4
    land = land * (1 + 0.1 * ripeness + 0.1 * is_tilled * furrows)[..., None]
    land = over(land, flat((78, 58, 26)), 0.75 * line(fields.edge, 1.8))
    shade = hillshade(height, 1.1) * (1 - 0.2 * hollows(height))
    land = land * (0.26 + 0.76 * shade)[..., None]
    land = over(land, flat((238, 214, 168)), 0.9 * line(parishes.edge, 2.8))
    land = over(land, _draw_hamlets(size, rng, land), smoothstep(height, 0.26, 0.3))
    water = ramp(height, [(0, (22, 34, 38)), (0.12, (40, 66, 66)), (SEA_LEVEL, (98, 116, 92))])
    distance = shore_distance(height)
    picture = over(water, land, distance + 0.5)
    return over(picture, flat((70, 50, 26)), 0.85 * np.clip(1.3 - np.abs(distance), 0, 1))


def _draw_hamlets(size: tuple[int, int], rng: np.random.Generator, land: Picture) -> Picture:
    """Draw clusters of thatched roofs."""
    centres = voronoi(rng, size, 72)
    roofs = voronoi(rng, size, 9)
    is_near_centre = (centres.edge > rng.uniform(16, 20)) & (centres.draw(rng, 0, 1) > 0.35)
    is_built = is_near_centre & (roofs.draw(rng, 0, 1) > 0.45)
    yards = over(land, flat((196, 170, 126)), 0.6 * is_built)
    tone = roofs.draw(rng, 0.8, 1.25)[..., None]
    return over(yards, flat((104, 62, 30)) * tone, np.clip(roofs.edge - 0.3, 0, 1) * is_built)


PRE_INDUSTRIAL = Era(
    key="pre_industrial",
    names=("pre-industrial", "pre-industrial village", "medieval countryside", "1600s farmland"),
    details=(
        "1600s",
        "subsistence agriculture",
        "golden fields",
        "thatched hamlets",
        "dirt tracks",
        "patchwork of small fields",
        "harvest time",
        "horse carts",
    ),
    paint=paint,
)
