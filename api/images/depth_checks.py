"""Plausibility checks and options of depth maps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Grey = NDArray[np.float32]
"""Depth map: float32 `[h, w]`, 0 to 255, near = bright."""

_CONSTANT_SPAN = 8.0
_NEAR_CLIPPED, _FAR_CLIPPED = 0.1, 0.5
_INVERTED_MARGIN = 32.0
_SHALLOW = 1 / 8
_WRAP_JUMP, _WRAPPED, _ROUGH = 224.0, 0.01, 40.0
_ROWS = 256


def apply_depth_options(grey: Grey, invert: bool, normalize: bool) -> Grey:
    """Return the map, first inverted, then stretched to 0 to 255, as the options require.

    Args:
        grey: float32 `[h, w]`, 0 to 255.
        invert: whether to swap near and far.
        normalize: whether to stretch the values to 0 to 255; a constant map is not stretched.
    """
    if invert:
        grey = 255.0 - grey
    low, high = float(grey.min()), float(grey.max())
    if normalize and high > low:
        grey = (grey - low) * (255.0 / (high - low))
    return grey


def depth_warnings(grey: Grey, sixteen_bit: bool = False) -> tuple[str, ...]:
    """Return warnings about a depth map; most maps have none.

    The checks use the ellipse that touches the edges, because installations crop their depth to a
    circle. The corners only serve to detect swapped near and far. Large maps are sampled at about
    256 rows.

    Args:
        grey: float32 `[h, w]`, 0 to 255, after any options.
        sixteen_bit: whether the image has 16 bits, whose range it should use.
    """
    rows = grey[:: max(1, len(grey) // _ROWS)]
    inside = rows[_ellipse(*rows.shape)]
    low, high = (float(value) for value in np.percentile(inside, (1, 99)))
    top = float(rows.max())
    if sixteen_bit and 0 < top < 255 * _SHALLOW:
        return (
            f"depth map: its 16 bits reach only {top / 255:.1%} of their range, so the terrain "
            "will be flat; scale it, or set normalize_depth",
        )
    if high - low < _CONSTANT_SPAN:
        return (
            f"depth map: nearly constant, from {low:.0f} to {high:.0f} of 255; the image will "
            "be flat; normalize_depth stretches the values",
        )
    warnings = []
    if _is_wrapped(rows):
        warnings.append(
            "depth map: jumps between dark and bright, like a 16-bit map cut to its low 8 bits; "
            "send all 16"
        )
    elif _is_inverted(grey, inside):
        warnings.append(
            "depth map: looks inverted, because its rim is the brightest part; near must be "
            "bright; invert_depth swaps near and far"
        )
    for value, limit, end in ((255.0, _NEAR_CLIPPED, "nearest"), (0.0, _FAR_CLIPPED, "farthest")):
        share = float((np.abs(inside - value) < 0.5).mean())
        if share > limit:
            warnings.append(
                f"depth map: clipped, {share:.0%} of it is at the {end} value ({value:.0f})"
            )
    return tuple(warnings)


def _ellipse(height: int, width: int) -> NDArray[np.bool_]:
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    ellipse: NDArray[np.bool_] = x**2 + y**2 <= 1
    # The ellipse in a map of one or two rows is empty.
    return ellipse if ellipse.any() else np.ones((height, width), bool)


def _is_wrapped(rows: Grey) -> bool:
    """Return whether neighbouring pixels jump like an overflowing counter.

    Such jumps are rare in nearly level areas and occur at every pixel on steep slopes.
    """
    width = rows.shape[1]
    # The middle half does not contain the rim of a crop.
    jumps = np.abs(
        np.diff(rows[len(rows) // 4 : -(len(rows) // 4) or None, width // 4 : -width // 4])
    )
    if jumps.size == 0:
        return False
    return bool(jumps.mean() > _ROUGH or (jumps > _WRAP_JUMP).mean() > _WRAPPED)


def _is_inverted(grey: Grey, inside: Grey) -> bool:
    """Return whether all four corners are uniform and far brighter than the inside."""
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
