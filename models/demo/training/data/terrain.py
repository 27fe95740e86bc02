"""Procedural height fields, as a substitute for landscapes modelled in sand.

A height field is float32 of shape (height, width) in [0, 1]; 1 is the summit. The depth map of
the scene is the height in 8 bits, because near is bright.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.demo.training.data.fields import Field, Size, blur, fractal, frame, smoothstep

Generator = np.random.Generator


@dataclass(frozen=True)
class Terrain:
    """One landscape: its kind, a key of KINDS, and its height, float32 in [0, 1]."""

    kind: str
    height: Field

    @property
    def depth(self) -> NDArray[np.uint8]:
        """Depth map as seen by a camera above the table: uint8 (height, width), near = bright."""
        return depth_map(self.height)


def depth_map(height: Field) -> NDArray[np.uint8]:
    """Convert height in [0, 1] to uint8 grey, rounded."""
    return np.rint(np.clip(height, 0, 1) * 255).astype(np.uint8)


def _draw_wavelength(rng: Generator, size: Size, low: float, high: float) -> float:
    """Draw a log-uniform wavelength in pixels, `low` to `high` times the shorter side."""
    return float(min(size) * np.exp(rng.uniform(np.log(low), np.log(high))))


def ridges(rng: Generator, size: Size) -> Field:
    """Return sharp crests: 1 minus the absolute value of noise (Musgrave's ridged multifractal)."""
    crests = 1 - np.abs(
        fractal(rng, size, rng.uniform(2.2, 3.2), _draw_wavelength(rng, size, 0.4, 0.9))
    )
    return crests + 0.35 * fractal(rng, size, 2.5, _draw_wavelength(rng, size, 0.5, 1))


def valleys(rng: Generator, size: Size) -> Field:
    """Return high ground with a few winding valleys."""
    course = np.abs(
        fractal(rng, size, rng.uniform(2.8, 3.6), _draw_wavelength(rng, size, 0.4, 0.9))
    )
    return np.tanh(course / rng.uniform(0.3, 0.8)) + 0.2 * fractal(rng, size, 2.5, min(size) / 3)


def islands(rng: Generator, size: Size) -> Field:
    """Return land that falls towards the edge of the frame."""
    y, x = frame(size)
    offset = rng.uniform(-0.3, 0.3, 2)
    distance = np.hypot(y - offset[0], x - offset[1])
    relief = fractal(rng, size, rng.uniform(2.2, 3.2), _draw_wavelength(rng, size, 0.25, 0.6))
    return np.maximum(1.1 - distance + rng.uniform(0.2, 0.45) * relief, -0.1)


def craters(rng: Generator, size: Size) -> Field:
    """Return bowls with raised rims on gentle ground."""
    y, x = frame(size)
    height = 0.3 * fractal(rng, size, 2.8, _draw_wavelength(rng, size, 0.4, 0.8))
    for _ in range(int(rng.integers(1, 7))):
        row, column = rng.uniform(-0.9, 0.9, 2)
        radius = rng.uniform(0.15, 0.55)
        distance = np.hypot(y - row, x - column) / radius
        bowl = np.minimum(distance**2 - 1, 0) * rng.uniform(0.6, 1.2)
        rim = np.exp(-(((distance - 1) / 0.22) ** 2)) * rng.uniform(0.3, 0.8)
        height = height + bowl + rim
    return height


def plateaus(rng: Generator, size: Size) -> Field:
    """Return flat levels joined by steep slopes."""
    relief = fractal(rng, size, rng.uniform(2.6, 3.4), _draw_wavelength(rng, size, 0.4, 0.9))
    levels = rng.integers(2, 5)
    steps = np.clip(relief * 0.25 + 0.5, 0, 1) * levels
    risen = np.floor(steps) + smoothstep(steps % 1, 0.5 - rng.uniform(0.1, 0.3), 0.85)
    return risen / levels + 0.04 * fractal(rng, size, 2.2, min(size) / 4)


def mounds(rng: Generator, size: Size) -> Field:
    """Return heaps and hollows as in hand-shaped sand: overlapping smooth bells."""
    y, x = frame(size)
    height = np.zeros(size, np.float32)
    for _ in range(int(rng.integers(2, 12))):
        row, column = rng.uniform(-1, 1, 2)
        width, stretch, angle = rng.uniform(0.15, 0.6), rng.uniform(0.5, 1), rng.uniform(0, np.pi)
        along = (x - column) * np.cos(angle) + (y - row) * np.sin(angle)
        across = (y - row) * np.cos(angle) - (x - column) * np.sin(angle)
        bell = np.exp(-(((along / width) ** 2 + (across / (width * stretch)) ** 2) ** 1.2))
        height = height + bell * rng.uniform(0.4, 1) * rng.choice([1, 1, 1, -0.8])
    return height.astype(np.float32)


def rolling(rng: Generator, size: Size) -> Field:
    """Return fractal hills."""
    return fractal(rng, size, rng.uniform(2.2, 3.6), _draw_wavelength(rng, size, 0.25, 1.2))


KINDS: dict[str, Callable[[Generator, Size], Field]] = {
    make.__name__: make for make in (ridges, valleys, islands, craters, plateaus, mounds, rolling)
}


def rescaled(height: Field) -> Field:
    """Map the 1st to 99th percentile to [0, 1] and clip the rest."""
    low, high = np.percentile(height, (1, 99))
    return np.clip((height - low) / (high - low + 1e-6), 0, 1).astype(np.float32)


def circular_crop(height: Field, radius: float, edge: float) -> Field:
    """Set the height outside a disc to zero, with a soft edge.

    Args:
        height: Height field (height, width).
        radius: Radius of the disc; 1 is half of the shorter side.
        edge: Width of the transition, in the same unit.
    """
    y, x = frame(height.shape)
    return height * smoothstep(-np.hypot(y, x), -radius - edge / 2, -radius + edge / 2)


def make_terrain(seed: int, size: Size, kind: str | None = None) -> Terrain:
    """Generate a landscape, deterministic for the same seed, size and kind.

    Half of the landscapes are blurred more strongly and a quarter are flatter. Two in five are
    cropped to a disc, like the round table under the installation's depth camera.

    Args:
        seed: Seed of the landscape.
        size: Height and width in pixels.
        kind: Kind of landscape, a key of KINDS; None draws one.
    """
    rng = np.random.default_rng(seed)
    drawn = str(rng.choice(list(KINDS)))
    kind = kind or drawn
    height = rescaled(KINDS[kind](rng, size))
    height = blur(height, min(size) * rng.choice([0.008, rng.uniform(0.012, 0.035)]))
    height = np.clip(height, 0, 1) ** np.exp(rng.uniform(-0.45, 0.45))
    amplitude = rng.uniform(0.8, 1) if rng.random() < 0.75 else rng.uniform(0.35, 0.8)
    base = rng.uniform(0, 1 - amplitude)
    height = np.clip(base + amplitude * height, 0, 1).astype(np.float32)
    if rng.random() < 0.4:
        edge = rng.choice([0.02, rng.uniform(0.01, 0.15)])
        height = circular_crop(height, rng.uniform(0.75, 1), edge)
    return Terrain(kind, height.astype(np.float32))
