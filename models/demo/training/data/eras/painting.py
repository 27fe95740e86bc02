"""Drawing primitives of all eras: colour ramps, relief shading, shores and cell patterns.

An image is a float array of shape (height, width, 3), RGB in [0, 1]. Colours are RGB in 0-255.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.demo.training.data.fields import Field, Size, blur, pixels, slope

Picture = NDArray[np.floating[Any]]
Colour = tuple[int, int, int]

SEA_LEVEL = 0.22
"""Height in [0, 1] below which every era has water."""


def ramp(values: Field, stops: list[tuple[float, Colour]]) -> Picture:
    """Map values to piecewise linear colours, as in a hypsometric tint."""
    at = [stop for stop, _ in stops]
    channels = [np.interp(values, at, [rgb[c] / 255 for _, rgb in stops]) for c in range(3)]
    return np.stack(channels, -1).astype(np.float32)


def flat(colour: Colour) -> Picture:
    """Return one colour, shaped to broadcast over an image."""
    return np.asarray(colour, np.float32) / 255


def over(below: Picture, above: Picture, alpha: Field) -> Picture:
    """Blend one image over another.

    Args:
        below: Lower image (height, width, 3).
        above: Upper image, broadcastable to the same shape.
        alpha: Opacity of the upper image, (height, width), clipped to [0, 1].
    """
    weight = np.clip(alpha, 0, 1)[..., None]
    return below * (1 - weight) + above * weight


def line(distance: Field, width: float) -> Field:
    """Return the coverage of an antialiased line of `width` pixels by distance to its centre."""
    return np.clip(width / 2 + 0.5 - np.abs(distance), 0, 1)


def hillshade(height: Field, relief: float = 1.0) -> Field:
    """Return Lambertian shading with light from the upper left, 45 degrees high; 1 on flat ground.

    This is the classic cartographic light (Horn, Hill shading and the reflectance map, 1981).
    Slopes are relative to the frame, so that an image looks the same at every size.
    """
    down, right = slope(height)
    steepness = relief * min(height.shape) * 0.13
    lit = 1 + (right + down) * steepness * np.sqrt(0.5)
    return np.maximum(lit, 0) / np.sqrt(1 + steepness**2 * (right**2 + down**2))


def hollows(height: Field) -> Field:
    """Return the depth below the surroundings, in [-1, 1], as cheap ambient occlusion."""
    return np.clip((blur(height, min(height.shape) / 24) - height) * 6, -1, 1)


def shore_distance(height: Field) -> Field:
    """Return the first-order distance to the shore in pixels, positive on land."""
    down, right = slope(height)
    return (height - SEA_LEVEL) / (np.hypot(down, right) + 0.4 / min(height.shape))


@dataclass(frozen=True)
class Cells:
    """A partition into cells: an index per pixel, and the distance to the cell's edge in pixels."""

    index: NDArray[np.int64]
    edge: Field
    count: int

    def draw(self, rng: np.random.Generator, low: float, high: float) -> Field:
        """Draw a uniform random number per cell and return it for every pixel.

        Args:
            rng: Generator of the numbers.
            low: Lower bound.
            high: Upper bound.
        """
        return rng.uniform(low, high, self.count).astype(np.float32)[self.index]


def voronoi(
    rng: np.random.Generator, size: Size, spacing: float, warp: Field | None = None
) -> Cells:
    """Return irregular cells (Worley, A cellular texture basis, 1996).

    Every square of a grid has one jittered point.

    Args:
        rng: Generator of the points.
        size: Height and width in pixels.
        spacing: Approximate width of a cell in pixels.
        warp: Shift of the plane in pixels, which bends the edges.
    """
    rows, columns = pixels(size)
    if warp is not None:
        rows, columns = rows + warp, columns - warp
    rows, columns = rows / spacing + 4, columns / spacing + 4
    down, across = (int(side / spacing) + 10 for side in size)
    points = rng.uniform(0.1, 0.9, (down, across, 2)).astype(np.float32)
    top, left = rows.astype(np.int64), columns.astype(np.int64)
    nearest = np.full(size, 99, np.float32)
    second = nearest.copy()
    index = np.zeros(size, np.int64)
    for step_down in (-1, 0, 1):
        for step_across in (-1, 0, 1):
            y = np.clip(top + step_down, 0, down - 1)
            x = np.clip(left + step_across, 0, across - 1)
            point = points[y, x]
            distance = (rows - y - point[..., 0]) ** 2 + (columns - x - point[..., 1]) ** 2
            closer = distance < nearest
            second = np.where(closer, nearest, np.minimum(second, distance))
            index = np.where(closer, y * across + x, index)
            nearest = np.where(closer, distance, nearest)
    edge = (np.sqrt(second) - np.sqrt(nearest)) * spacing / 2
    return Cells(index, edge, down * across)


def rotated(size: Size, angle: Field | float) -> tuple[Field, Field]:
    """Return pixel coordinates rotated by `angle` radians, which may differ per pixel."""
    rows, columns = pixels(size)
    return (
        rows * np.cos(angle) - columns * np.sin(angle),
        rows * np.sin(angle) + columns * np.cos(angle),
    )


def grid_distance(coordinate: Field, spacing: Field | float) -> Field:
    """Return the distance in pixels to the nearest multiple of `spacing`."""
    return (0.5 - np.abs(coordinate / spacing % 1 - 0.5)) * spacing
