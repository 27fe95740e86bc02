"""Scalar fields on a pixel grid: noise, blur, slope and coordinates that terrain and eras share.

Every field is a float array of shape (height, width). Sizes are (height, width) in pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]
Size = tuple[int, int]


def frequencies(size: Size) -> Field:
    """Radial spatial frequency of each rfft2 bin, in cycles per pixel, shape (h, w // 2 + 1)."""
    vertical = np.fft.fftfreq(size[0])[:, None]
    horizontal = np.fft.rfftfreq(size[1])[None, :]
    return np.hypot(vertical, horizontal).astype(np.float32)


def blur(field: Field, sigma: float) -> Field:
    """Gaussian blur with `sigma` in pixels; edges are mirrored."""
    if sigma < 0.05:
        return field
    pad = min(int(3 * sigma) + 1, *(side - 1 for side in field.shape))
    padded = np.pad(field, pad, mode="reflect")
    response = np.exp(-2 * (np.pi * sigma * frequencies(padded.shape)) ** 2)
    blurred = np.fft.irfft2(np.fft.rfft2(padded) * response, s=padded.shape)
    rows, columns = field.shape
    return blurred[pad : pad + rows, pad : pad + columns].astype(np.float32)


def normalised(field: Field) -> Field:
    """Zero mean, unit standard deviation."""
    return (field - field.mean()) / (field.std() + 1e-6)


def fractal(rng: np.random.Generator, size: Size, roughness: float, wavelength: float) -> Field:
    """Gaussian noise whose amplitude spectrum is flat up to a corner and then falls as a power law.

    Spectral synthesis (Saupe, in The Science of Fractal Images, 1988, chapter 2): `roughness` is
    the exponent of the fall (1.5 rough to 4 smooth), `wavelength` the corner in pixels.
    Zero mean, unit standard deviation.
    """
    spectrum = np.fft.rfft2(rng.standard_normal(size, dtype=np.float32))
    amplitude = (frequencies(size) ** 2 + wavelength**-2) ** (-roughness / 2)
    return normalised(np.fft.irfft2(spectrum * amplitude, s=size).astype(np.float32))


def speckle(rng: np.random.Generator, size: Size, sigma: float) -> Field:
    """White noise blurred to grains of about `sigma` pixels; unit standard deviation."""
    return normalised(blur(rng.standard_normal(size, dtype=np.float32), sigma))


def pixels(size: Size) -> tuple[Field, Field]:
    """Row and column of each pixel, in pixels."""
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float32)
    return rows, columns


def frame(size: Size) -> tuple[Field, Field]:
    """Coordinates (y, x) from the centre; the shorter side spans -1 to 1."""
    rows, columns = pixels(size)
    half = min(size) / 2
    return (rows + 0.5 - size[0] / 2) / half, (columns + 0.5 - size[1] / 2) / half


def slope(height: Field) -> tuple[Field, Field]:
    """Derivatives (down, right) of the height, per pixel."""
    down, right = np.gradient(height, axis=0), np.gradient(height, axis=1)
    return down, right


def smoothstep(field: Field, low: float, high: float) -> Field:
    """Hermite step from 0 at `low` to 1 at `high`."""
    t = np.clip((field - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)
