"""Picture files: format, size, and the parameters inside."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import ExifTags, Image

from runners.engine.image_encoding import encode_picture, encode_preview, png_input_chunks
from testing.workbench import make_job

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
PARAMETERS: dict[str, Any] = {"prompt": "Hügel, 山", "seed": 2**62}


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_parameters_travel_inside(output_format: str) -> None:
    picture = Image.open(io.BytesIO(encode_picture(PIXELS, output_format, 90, PARAMETERS)))
    assert picture.format == output_format.upper()
    assert picture.size == (56, 40)
    if output_format == "png":
        text = picture.info["parameters"]
    else:
        comment = picture.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
        assert comment[:8] == b"ASCII\0\0\0"
        text = comment[8:].decode("ascii")
    assert json.loads(text) == PARAMETERS


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_no_parameters_when_turned_off(output_format: str) -> None:
    picture = Image.open(io.BytesIO(encode_picture(PIXELS, output_format, 90, None)))
    assert "parameters" not in picture.info
    assert not picture.getexif().get_ifd(ExifTags.IFD.Exif)


def test_png_keeps_every_pixel_and_quality_costs_bytes() -> None:
    png = Image.open(io.BytesIO(encode_picture(PIXELS, "png", 1, None)))
    np.testing.assert_array_equal(np.asarray(png), PIXELS)
    for lossy in ("jpeg", "webp"):
        assert len(encode_picture(PIXELS, lossy, 20, None)) < len(
            encode_picture(PIXELS, lossy, 95, None)
        )


def test_a_preview_is_a_small_jpeg() -> None:
    assert Image.open(io.BytesIO(encode_preview(PIXELS))).format == "JPEG"


def test_png_embeds_its_inputs() -> None:
    grey, start = PIXELS[:, :, 0].copy(), PIXELS[::-1].copy()
    job = make_job(grey, image=start.tobytes(), strength=0.5, embed_inputs=True)
    png = encode_picture(PIXELS, "png", 1, PARAMETERS, png_input_chunks(job))
    picture: Any = Image.open(io.BytesIO(png))
    np.testing.assert_array_equal(np.asarray(picture), PIXELS)
    chunks = {chunk[0]: Image.open(io.BytesIO(chunk[1])) for chunk in picture.private_chunks}
    assert {name: each.mode for name, each in chunks.items()} == {b"dpTh": "L", b"stRt": "RGB"}
    np.testing.assert_array_equal(np.asarray(chunks[b"dpTh"]), grey)
    np.testing.assert_array_equal(np.asarray(chunks[b"stRt"]), start)


def test_only_requested_inputs_of_the_job_are_embedded() -> None:
    job = make_job(PIXELS[:, :, 0].copy(), embed_inputs=True)
    assert list(png_input_chunks(job)) == [b"dpTh"]
    assert list(png_input_chunks(replace(job, depth=b"", image=bytes(3 * 40 * 56)))) == [b"stRt"]
    assert png_input_chunks(replace(job, embed_inputs=False)) == {}
