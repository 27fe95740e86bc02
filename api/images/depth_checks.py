"""Depth maps as numbers: what is odd about one, and the switches that change it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Grey = NDArray[np.float32]
"""float32 [h, w], 0 to 255, near = bright."""

_CONSTANT_SPAN = 8.0
_NEAR_CLIPPED, _FAR_CLIPPED = 0.1, 0.5
_INVERTED_MARGIN = 32.0
_SHALLOW = 1 / 8
_WRAP_JUMP, _WRAPPED, _ROUGH = 224.0, 0.01, 40.0
_ROWS = 256


def adjusted(grey: Grey, invert: bool, normalize: bool) -> Grey:
    """The map inverted, then stretched so that it reaches from 0 to 255; a constant map stays."""
    if invert:
        grey = 255.0 - grey
    low, high = float(grey.min()), float(grey.max())
    if normalize and high > low:
        grey = (grey - low) * (255.0 / (high - low))
    return grey


def suspicions(grey: Grey, sixteen_bit: bool = False) -> tuple[str, ...]:
    """What looks wrong about a depth map, as sentences for its sender; most maps give none.

    Judged inside the ellipse that the map's edges touch, for installations crop their sand to a
    circle; corners only tell whether near and far were mistaken for each other. Large maps are
    judged by at most 256 of their rows.

    Args:
        grey: as the sender's picture has it, before any switch.
        sixteen_bit: whether the picture had 16 bits, whose range it should then use.
    """
    rows = grey[:: max(1, len(grey) // _ROWS)]
    inside = rows[_ellipse(*rows.shape)]
    low, high = (float(value) for value in np.percentile(inside, (1, 99)))
    top = float(rows.max())
    if sixteen_bit and 0 < top < 255 * _SHALLOW:
        return (
            f"depth map: its 16 bits reach only {top / 255:.1%} of their range, which paints flat "
            "ground; scale it, or set normalize_depth",
        )
    if high - low < _CONSTANT_SPAN:
        return (
            f"depth map: nearly constant, from {low:.0f} to {high:.0f} of 255; the picture will "
            "be flat; normalize_depth stretches what there is",
        )
    found = []
    if _is_wrapped(rows):
        found.append(
            "depth map: jumps between dark and bright, as a 16-bit map does that was cut to its "
            "low 8 bits; send all 16"
        )
    elif _is_inverted(grey, inside):
        found.append(
            "depth map: looks inverted, for its rim is the brightest part; near must be bright; "
            "invert_depth turns it round"
        )
    for value, limit, end in ((255.0, _NEAR_CLIPPED, "nearest"), (0.0, _FAR_CLIPPED, "farthest")):
        share = float((np.abs(inside - value) < 0.5).mean())
        if share > limit:
            found.append(
                f"depth map: clipped, {share:.0%} of it is at the {end} value ({value:.0f})"
            )
    return tuple(found)


def _ellipse(height: int, width: int) -> NDArray[np.bool_]:
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    ellipse: NDArray[np.bool_] = x**2 + y**2 <= 1
    # A map of one or two rows has no inside.
    return ellipse if ellipse.any() else np.ones((height, width), bool)


def _is_wrapped(rows: Grey) -> bool:
    """Whether neighbours jump as a counter does that overflows: seldom where the map is nearly
    level, and at every pixel where it is steep."""
    width = rows.shape[1]
    # The middle half, where no crop has its rim.
    jumps = np.abs(
        np.diff(rows[len(rows) // 4 : -(len(rows) // 4) or None, width // 4 : -width // 4])
    )
    if jumps.size == 0:
        return False
    return bool(jumps.mean() > _ROUGH or (jumps > _WRAP_JUMP).mean() > _WRAPPED)


def _is_inverted(grey: Grey, inside: Grey) -> bool:
    """Whether all four corners are flat and far brighter than what lies between them."""
    height, width = (max(1, side // 16) for side in grey.shape)
    corners = np.stack(
        [grey[y, x][:height, :width].mean() for y, x in (
            (slice(0, height), slice(0, width)),
            (slice(0, height), slice(-width, None)),
            (slice(-height, None), slice(0, width)),
            (slice(-height, None), slice(-width, None)),
        )]
    )  # fmt: skip
    return bool(
        corners.max() - corners.min() < 4
        and corners.min() >= np.percentile(inside, 98)
        and corners.min() - np.median(inside) > _INVERTED_MARGIN
    )
