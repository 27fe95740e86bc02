"""Deliberately degraded images, so that the model learns what negative prompts describe."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.demo.training.data.fields import Field, blur, frame


def _blur_channels(picture: Field, rng: np.random.Generator) -> Field:
    sigma = rng.uniform(2, 4)
    return np.stack([blur(picture[..., c], sigma) for c in range(3)], -1)


def _posterise(picture: Field, rng: np.random.Generator) -> Field:
    levels = rng.integers(2, 4)
    return (np.rint(picture * levels) / levels).astype(np.float32)


def _oversaturate(picture: Field, rng: np.random.Generator) -> Field:
    grey = picture.mean(-1, keepdims=True)
    return grey + (picture - grey) * rng.uniform(2, 3)


def _warp(picture: Field, rng: np.random.Generator) -> Field:
    """Apply a fish-eye distortion, which magnifies the centre."""
    size = picture.shape[:2]
    y, x = frame(size)
    radius = np.hypot(y, x) / np.hypot(np.abs(y).max(), np.abs(x).max())
    pull = 0.45 + 0.55 * radius ** rng.uniform(0.7, 1.3)
    rows = np.rint(size[0] / 2 + y * pull * min(size) / 2 - 0.5).astype(np.int64)
    columns = np.rint(size[1] / 2 + x * pull * min(size) / 2 - 0.5).astype(np.int64)
    return picture[np.clip(rows, 0, size[0] - 1), np.clip(columns, 0, size[1] - 1)]


FLAWS = (_blur_channels, _posterise, _oversaturate, _warp)


def degrade(picture: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Apply one or two random flaws to an image, uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    degraded: Field = picture.astype(np.float32) / 255
    for index in rng.permutation(len(FLAWS))[: rng.integers(1, 3)]:
        degraded = FLAWS[index](degraded, rng)
    return np.rint(np.clip(degraded, 0, 1) * 255).astype(np.uint8)
