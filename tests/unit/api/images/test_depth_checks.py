"""Warnings about implausible depth maps, and the options that correct them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from api.images.decoding import decode_depth, depth_from_estimate, mock_depth
from api.images.depth_checks import Grey, apply_depth_options, depth_warnings
from models.demo.training.data.terrain import make_terrain
from tests.support.images.pictures import encoded, hill

HILL: Grey = hill(256, 256).astype(np.float32)


def disc(grey: Grey, outside: float) -> Grey:
    """As an installation sends it: a disc of sand, and nothing around it."""
    y, x = np.ogrid[-1 : 1 : grey.shape[0] * 1j, -1 : 1 : grey.shape[1] * 1j]
    return np.where(x**2 + y**2 <= 1, grey, outside).astype(np.float32)


def warning_kinds(grey: Any, sixteen_bit: bool = False) -> set[str]:
    """What the warnings say, as one word each."""
    found = depth_warnings(np.asarray(grey, np.float32), sixteen_bit)
    assert all(text.startswith("depth map: ") for text in found)
    words = ("nearly constant", "inverted", "clipped", "16-bit", "16 bits")
    return {word for text in found for word in words if word in text}


@pytest.mark.parametrize("seed", range(40))
def test_landscapes_cause_no_warning_but_clipping(seed: int) -> None:
    """Cropped or not, flat sea included: but a sea over half of the map counts as clipped."""
    grey = make_terrain(70_000 + seed, (96, 96)).depth.astype(np.float32)
    assert warning_kinds(grey) | warning_kinds(disc(grey, 0)) <= {"clipped"}


def test_the_mock_is_fine() -> None:
    assert mock_depth(256, 256).warnings == ()
    assert warning_kinds(HILL) == set()


@pytest.mark.parametrize("level", [0, 128, 255])
def test_nearly_constant(level: int) -> None:
    rng = np.random.default_rng(0)
    assert "nearly constant" in warning_kinds(np.clip(level + rng.normal(0, 1, (64, 64)), 0, 255))


def test_inverted_discs() -> None:
    """Nearly all: one of low sand in a bright corner may pass for a landscape."""
    maps = [make_terrain(80_000 + seed, (96, 96)).depth.astype(np.float32) for seed in range(40)]
    assert sum("inverted" in warning_kinds(255 - disc(grey * 0.9, 0)) for grey in maps) >= 36


def test_clipped() -> None:
    assert warning_kinds(np.clip(HILL * 3, 0, 255)) == {"clipped"}
    (text,) = depth_warnings(np.clip(HILL * 3, 0, 255))
    assert "% of it is at the nearest value (255)" in text


def test_sixteen_bits_cut_to_eight() -> None:
    deep = hill(256, 256).astype(np.uint16) * 257
    gentle = np.linspace(0, 6 * 256, 256)[None].repeat(256, 0).astype(np.uint16)
    for wide in (deep + gentle, gentle):
        assert "16-bit" in warning_kinds(wide & 255)


def test_sixteen_bits_that_hold_less() -> None:
    eight_in_sixteen = Image.fromarray(hill(64, 64).astype(np.uint16))
    depth = decode_depth(encoded(eight_in_sixteen).encode(), 64, 64)
    (text,) = depth.warnings
    assert "16 bits reach only 0.4%" in text
    stretched = decode_depth(encoded(eight_in_sixteen).encode(), 64, 64, normalize=True)
    assert stretched.warnings == ()
    np.testing.assert_array_equal(
        np.frombuffer(stretched.pixels, np.uint8).reshape(64, 64), adjusted_hill()
    )


def adjusted_hill() -> Grey:
    return (
        apply_depth_options(hill(64, 64).astype(np.float32), False, True).round().astype(np.uint8)
    )


def test_the_switches() -> None:
    np.testing.assert_array_equal(apply_depth_options(HILL, True, False), 255 - HILL)
    shallow = 100 + HILL / 10
    stretched = apply_depth_options(shallow, False, True)
    assert (stretched.min(), stretched.max()) == pytest.approx((0, 255))
    assert np.corrcoef(stretched.ravel(), HILL.ravel())[0, 1] > 0.999
    level = np.full((4, 4), 7, np.float32)
    np.testing.assert_array_equal(apply_depth_options(level, False, True), level)


def test_an_estimate_is_changed_like_a_map() -> None:
    grey = hill(64, 48)
    same = depth_from_estimate(grey.tobytes(), 64, 48, invert=False, normalize=False)
    assert same.pixels == grey.tobytes()
    turned = depth_from_estimate(grey.tobytes(), 64, 48, invert=True, normalize=False)
    assert turned.pixels == (255 - grey).tobytes()
    inverted_mock = mock_depth(64, 48, invert=True)
    assert inverted_mock.pixels == bytes(255 - byte for byte in mock_depth(64, 48).pixels)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 2), (3, 5), (2000, 4)])
def test_any_shape(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    for grey in (np.zeros(shape), rng.uniform(0, 255, shape)):
        assert all(isinstance(text, str) for text in depth_warnings(grey.astype(np.float32)))
