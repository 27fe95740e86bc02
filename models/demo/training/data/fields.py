"""Scalar fields on a pixel grid: noise, blur, slope and coordinates, for terrain and eras.

A field is a float array of shape (height, width). Sizes are (height, width) in pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]
Size = tuple[int, int]


def frequencies(size: Size) -> Field:
    """Return the radial frequency of each rfft2 bin in cycles per pixel, (h, w // 2 + 1)."""
    vertical = np.fft.fftfreq(size[0])[:, None]
    horizontal = np.fft.rfftfreq(size[1])[None, :]
    return np.hypot(vertical, horizontal).astype(np.float32)


def blur(field: Field, sigma: float) -> Field:
    """Apply a Gaussian blur with `sigma` in pixels; edges are mirrored."""
    if sigma < 0.05:
        return field
    pad = min(int(3 * sigma) + 1, *(side - 1 for side in field.shape))
    padded = np.pad(field, pad, mode="reflect")
    response = np.exp(-2 * (np.pi * sigma * frequencies(padded.shape)) ** 2)
    blurred = np.fft.irfft2(np.fft.rfft2(padded) * response, s=padded.shape)
    rows, columns = field.shape
    return blurred[pad : pad + rows, pad : pad + columns].astype(np.float32)


def normalised(field: Field) -> Field:
    """Return the field with zero mean and unit standard deviation."""
    return (field - field.mean()) / (field.std() + 1e-6)


def fractal(rng: np.random.Generator, size: Size, roughness: float, wavelength: float) -> Field:
    """Return Gaussian noise with an amplitude spectrum that is flat, then falls as a power law.

    The method is spectral synthesis (Saupe, in The Science of Fractal Images, 1988, chapter 2).

    Args:
        rng: Generator of the noise.
        size: Height and width in pixels.
        roughness: Exponent of the power law, from 1.5 (rough) to 4 (smooth).
        wavelength: Wavelength in pixels at which the fall begins.

    Returns:
        Float32 field with zero mean and unit standard deviation.
    """
    spectrum = np.fft.rfft2(rng.standard_normal(size, dtype=np.float32))
    amplitude = (frequencies(size) ** 2 + wavelength**-2) ** (-roughness / 2)
    return normalised(np.fft.irfft2(spectrum * amplitude, s=size).astype(np.float32))


def speckle(rng: np.random.Generator, size: Size, sigma: float) -> Field:
    """Return white noise blurred to grains, with unit standard deviation.

    Args:
        rng: Generator of the noise.
        size: Height and width in pixels.
        sigma: Approximate grain size in pixels.
    """
    return normalised(blur(rng.standard_normal(size, dtype=np.float32), sigma))


def pixels(size: Size) -> tuple[Field, Field]:
    """Return the row and the column of each pixel, in pixels."""
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float32)
    return rows, columns


def frame(size: Size) -> tuple[Field, Field]:
    """Return coordinates (y, x) from the centre; the shorter side spans -1 to 1."""
    rows, columns = pixels(size)
    half = min(size) / 2
    return (rows + 0.5 - size[0] / 2) / half, (columns + 0.5 - size[1] / 2) / half


def slope(height: Field) -> tuple[Field, Field]:
    """Return the height's derivatives (down, right) per pixel."""
    down, right = np.gradient(height, axis=0), np.gradient(height, axis=1)
    return down, right


def smoothstep(field: Field, low: float, high: float) -> Field:
    """Return a Hermite step of the field.

    Args:
        field: Input of the step.
        low: Value up to which the result is 0.
        high: Value from which the result is 1.
    """
    t = np.clip((field - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)
