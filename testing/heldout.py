"""Held-out depth maps for the demo set: forms outside its training generator, and new seeds.

Heights are float32 in [0, 1], depth maps are uint8 in [0, 255]. Both have the shape (height,
width), and near is bright.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from models.demo.training.data.eras.painting import voronoi
from models.demo.training.data.fields import Field, Size, blur, fractal, frame, smoothstep
from models.demo.training.data.terrain import (
    KINDS,
    circular_crop,
    depth_map,
    make_terrain,
    rescaled,
)

COUNT = 64
SEED = 9_000_000
"""A value far from all training seeds."""

Generator = np.random.Generator


@dataclass(frozen=True)
class HeldOut:
    """An unseen landscape; `novel` means that training could not generate its kind."""

    kind: str
    novel: bool
    height: Field

    @property
    def depth(self) -> NDArray[np.uint8]:
        """The depth map, uint8 [height, width]."""
        return depth_map(self.height)


def _relief(rng: Generator, size: Size, strength: float = 0.12) -> Field:
    """Return gentle relief, so that no form is on a perfectly flat plane."""
    return strength * fractal(rng, size, 3, min(size) / 2)


def glyphs(rng: Generator, size: Size) -> Field:
    """Return a raised or sunken letter."""
    mask = Image.new("L", (size[1], size[0]))
    letter = str(rng.choice(list("ABEHKMRSXYZ2358&")))
    font = ImageFont.load_default(size=0.95 * min(size))
    middle = (size[1] / 2, size[0] / 2)
    ImageDraw.Draw(mask).text(middle, letter, fill=255, font=font, anchor="mm")
    form = blur(np.asarray(mask, np.float32) / 255, min(size) * rng.uniform(0.012, 0.03))
    return form * rng.choice([-1, 1]) + _relief(rng, size)


def spirals(rng: Generator, size: Size) -> Field:
    """Return a ridge that spirals out from the centre."""
    y, x = frame(size)
    turns = rng.uniform(1.5, 3) * np.pi * np.hypot(y, x) * 2
    arms = int(rng.integers(1, 4))
    return np.cos(arms * np.arctan2(y, x) * rng.choice([-1, 1]) + turns) + _relief(rng, size, 0.2)


def pyramids(rng: Generator, size: Size) -> Field:
    """Return square mounds with steps."""
    y, x = frame(size)
    height = np.zeros(size, np.float32)
    for _ in range(int(rng.integers(1, 5))):
        row, column, angle = *rng.uniform(-0.6, 0.6, 2), rng.uniform(0, np.pi / 2)
        across = (x - column) * np.cos(angle) + (y - row) * np.sin(angle)
        along = (y - row) * np.cos(angle) - (x - column) * np.sin(angle)
        reach = 1 - np.maximum(np.abs(across), np.abs(along)) / rng.uniform(0.35, 0.8)
        steps = rng.integers(3, 6)
        height = np.maximum(height, np.ceil(np.clip(reach, 0, 1) * steps) / steps)
    return blur(height.astype(np.float32), min(size) / 150) + _relief(rng, size, 0.06)


def dunes(rng: Generator, size: Size) -> Field:
    """Return long parallel waves, steeper on the lee side."""
    y, x = frame(size)
    angle, waves = rng.uniform(0, np.pi), rng.uniform(2, 4.5)
    phase = np.pi * waves * (x * np.cos(angle) + y * np.sin(angle)) + 0.5 * _relief(rng, size, 1)
    return np.sin(phase + 0.5 * np.sin(phase)) + _relief(rng, size)


def mesas(rng: Generator, size: Size) -> Field:
    """Return flat polygons at different heights, separated by clefts."""
    cells = voronoi(rng, size, min(size) / rng.uniform(2.5, 4.5))
    cleft = smoothstep(cells.edge, 0, min(size) / 40)
    return blur(cells.draw(rng, 0.25, 1) * (0.3 + 0.7 * cleft), min(size) / 120)


def rivers(rng: Generator, size: Size) -> Field:
    """Return terrain that slopes towards a branching river."""
    y, x = frame(size)
    distance = np.full(size, 9, np.float32)

    def flow(row: float, column: float, heading: float, width: float, left: int) -> None:
        for _ in range(left):
            heading += rng.normal(0, 0.25)
            row, column = row + 0.09 * np.sin(heading), column + 0.09 * np.cos(heading)
            np.minimum(distance, np.hypot(y - row, x - column) - width, out=distance)
            if width > 0.02 and rng.random() < 0.15:
                fork = heading + rng.choice([-1, 1]) * rng.uniform(0.6, 1.1)
                flow(row, column, fork, width * 0.6, left // 2)

    start = rng.uniform(0, 2 * np.pi)
    flow(1.1 * np.sin(start), 1.1 * np.cos(start), start + np.pi, rng.uniform(0.04, 0.09), 26)
    return np.sqrt(np.maximum(blur(distance, min(size) / 100), 0)) + _relief(rng, size, 0.08)


def hands(rng: Generator, size: Size) -> Field:
    """Return a palm and five fingers, pressed into the sand or raised from it."""
    y, x = frame(size)
    turn, scale = rng.uniform(0, 2 * np.pi), rng.uniform(0.7, 1)
    across = (x * np.cos(turn) + y * np.sin(turn)) / scale
    along = (y * np.cos(turn) - x * np.sin(turn)) / scale
    form = np.exp(-(((across / 0.38) ** 2 + ((along - 0.3) / 0.4) ** 2) ** 2))
    for finger in range(5):
        lean = (finger - 2) * 0.3 + rng.normal(0, 0.04)
        side = across * np.cos(lean) + along * np.sin(lean)
        out = -along * np.cos(lean) + across * np.sin(lean)
        length = 0.55 - 0.06 * abs(finger - 2)
        bell = np.exp(-(((side / 0.1) ** 2 + ((out - length + 0.15) / (length / 1.6)) ** 2) ** 2))
        form = np.maximum(form, bell)
    return blur(form.astype(np.float32), min(size) / 90) * rng.choice([-1, 1]) + _relief(rng, size)


def rings(rng: Generator, size: Size) -> Field:
    """Return circular waves around an off-centre point."""
    y, x = frame(size)
    row, column = rng.uniform(-0.5, 0.5, 2)
    distance = np.hypot(y - row, x - column)
    return np.cos(distance * rng.uniform(6, 11)) * np.exp(-0.5 * distance) + _relief(rng, size)


NOVEL: dict[str, Callable[[Generator, Size], Field]] = {
    make.__name__: make for make in (glyphs, spirals, pyramids, dunes, mesas, rivers, hands, rings)
}


def heldout(size: Size = (256, 256), count: int = COUNT) -> list[HeldOut]:
    """Return the same landscapes every time: five of eight of novel kinds, one in six a disc."""
    maps = []
    for number in range(count):
        rng = np.random.default_rng(SEED + number)
        if number % 8 < 5:
            kind = list(NOVEL)[(number // 8 * 5 + number % 8) % len(NOVEL)]
            height = rescaled(NOVEL[kind](rng, size))
            low, high = rng.uniform(0, 0.15), rng.uniform(0.85, 1)
            height = (low + (high - low) * height).astype(np.float32)
            if number % 6 == 0:
                height = circular_crop(height, rng.uniform(0.8, 1), 0.04).astype(np.float32)
            maps.append(HeldOut(kind, True, height))
        else:
            kind = list(KINDS)[number % len(KINDS)]
            maps.append(HeldOut(kind, False, make_terrain(SEED + number, size, kind).height))
    return maps
