"""Depth maps out of nothing: smooth hills, as a camera above a sand table sees them."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_STREAM = 2
_ROUGHNESS = 2.4
"""Amplitudes fall with the frequency to this power: sand holds no needles."""


def terrain(seed: int, number: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A depth map, uint8 (height, width), near = bright; the same for the same arguments.

    Args:
        seed: of the run.
        number: which of its landscapes.
        size: (width, height) in pixels.
    """
    width, height = size
    rng = np.random.default_rng((_STREAM, seed, number))
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    frequency = np.hypot(y, x)
    frequency[0, 0] = np.inf
    noise = rng.normal(size=(*frequency.shape, 2)) @ np.array([1, 1j])
    field = np.fft.irfft2(noise / frequency**_ROUGHNESS, s=(height, width))
    field = (field - field.min()) / (field.max() - field.min())
    return np.rint(field * 255).astype(np.uint8)


def terrain_png(seed: int, number: int, size: tuple[int, int]) -> bytes:
    """The same as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(terrain(seed, number, size)).save(buffer, "PNG")
    return buffer.getvalue()
