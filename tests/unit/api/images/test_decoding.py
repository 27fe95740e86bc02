"""Decoding of depth maps and photographs in accepted and rejected formats."""

from __future__ import annotations

import base64
import hashlib
import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from api.images import decoding
from api.images.decoding import DepthMap, RgbImage, mock_depth
from api.images.inspection import PictureTooLargeError, UnreadablePictureError
from testing.hostile_pictures import png_chunk
from tests.support.images.pictures import encoded, hill

HILL = hill()


def decode_depth(text: str, width: int, height: int) -> DepthMap:
    return decoding.decode_depth(text.encode("ascii", "replace"), width, height)


def decode_image(text: str, width: int | None, height: int | None) -> RgbImage:
    return decoding.decode_image(text.encode("ascii", "replace"), width, height)


def decode_array(text: str, width: int = 64, height: int = 48) -> np.ndarray[Any, Any]:
    pixels = decode_depth(text, width, height).pixels
    return np.frombuffer(pixels, np.uint8).reshape(height, width)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_formats(file_format: str) -> None:
    options = {"lossless": True} if file_format == "WEBP" else {}
    grey = decode_array(encoded(Image.fromarray(HILL), file_format, **options))
    tolerance = 3 if file_format == "JPEG" else 1
    assert np.abs(grey.astype(int) - HILL).max() <= tolerance


def test_data_urls_and_white_space() -> None:
    text = encoded(Image.fromarray(HILL))
    for prefix in ("data:image/png;base64,", "data:image/png;charset=utf-8;base64,", "\n "):
        np.testing.assert_array_equal(decode_array(prefix + text[:40] + "\r\n" + text[40:]), HILL)


def test_16_bit_is_scaled_not_cut() -> None:
    deep = HILL.astype(np.uint16) * 257
    np.testing.assert_array_equal(decode_array(encoded(Image.fromarray(deep))), HILL)
    np.testing.assert_array_equal(decode_array(encoded(Image.fromarray(deep), "TIFF")), HILL)


def test_float_and_32_bit_tiff() -> None:
    unit = Image.fromarray((HILL / 255).astype(np.float32))
    assert np.abs(decode_array(encoded(unit, "TIFF")).astype(int) - HILL).max() <= 1
    wide = Image.fromarray(HILL.astype(np.int32) * 257)
    assert np.abs(decode_array(encoded(wide, "TIFF")).astype(int) - HILL).max() <= 1
    broken = Image.fromarray(np.full((8, 8), np.nan, np.float32))
    with pytest.raises(UnreadablePictureError):
        decode_depth(encoded(broken, "TIFF"), 8, 8)


def test_colour_is_luminance_and_transparency_is_low_ground() -> None:
    colour = np.dstack([HILL, HILL, HILL])
    assert np.abs(decode_array(encoded(Image.fromarray(colour))).astype(int) - HILL).max() <= 1
    alpha = np.dstack([colour, np.where(np.arange(64) < 32, 255, 0)[None].repeat(48, 0)])
    half = decode_array(encoded(Image.fromarray(alpha.astype(np.uint8))))
    assert half[:, 40:].max() == 0
    assert np.abs(half[:, :32].astype(int) - HILL[:, :32]).max() <= 1
    palette = Image.fromarray(HILL).quantize(256)
    assert np.abs(decode_array(encoded(palette)).astype(int) - HILL).max() <= 3


def test_the_first_frame_of_an_animation_counts() -> None:
    frames = [Image.fromarray(HILL), Image.fromarray(255 - HILL)]
    text = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert np.abs(decode_array(text).astype(int) - HILL).max() <= 1


@pytest.mark.parametrize(
    ("own", "wanted", "size"),
    [
        ((640, 480), (None, None), (640, 480)),
        ((645, 479), (None, None), (648, 480)),
        ((4096, 3072), (None, None), (2048, 1536)),
        ((64, 48), (None, None), (344, 256)),
        ((1, 1), (None, None), (256, 256)),
        ((3000, 100), (None, None), (2048, 256)),
        ((100, 3000), (None, None), (256, 2048)),
        ((640, 480), (320, None), (320, 256)),
        ((640, 480), (1280, None), (1280, 960)),
        ((640, 480), (None, 960), (1280, 960)),
        ((640, 480), (512, 1024), (512, 1024)),
    ],
)
def test_photograph_keeps_its_size_within_limits(
    own: tuple[int, int], wanted: tuple[int | None, int | None], size: tuple[int, int]
) -> None:
    photograph = decode_image(encoded(Image.new("RGB", own, (9, 99, 200))), *wanted)
    assert (photograph.width, photograph.height) == size
    assert len(photograph.pixels) == size[0] * size[1] * 3
    assert photograph.pixels[:3] == bytes((9, 99, 200))


def test_resized_to_the_output() -> None:
    large = decode_array(encoded(Image.fromarray(hill(640, 480))), 64, 48)
    assert np.abs(large.astype(int) - HILL).max() <= 8


def huge_png() -> bytes:
    """A PNG whose header claims 100,000 x 100,000 pixels."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    packed = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", packed)


def test_decompression_bomb_is_rejected_from_its_header() -> None:
    with pytest.raises(PictureTooLargeError, match="64 megapixels"):
        decode_depth(base64.b64encode(huge_png()).decode(), 256, 256)


def truncated_jpeg() -> str:
    content = base64.b64decode(encoded(Image.fromarray(hill(200, 200))))
    return base64.b64encode(content[: len(content) // 2]).decode()


def gif() -> str:
    return encoded(Image.fromarray(HILL), "GIF")


@pytest.mark.parametrize(
    "text",
    ["", "   ", "%%%", "https://example.org/depth.png", "data:image/png;base64,", "AAAA",
     truncated_jpeg(), gif(), base64.b64encode(b"\x89PNG\r\n\x1a\n").decode(), "Ω" * 10],
)  # fmt: skip
def test_invalid_images_are_rejected(text: str) -> None:
    for decode in (decode_depth, decode_image):
        with pytest.raises(UnreadablePictureError, match=r"empty|not base64|not an image|damaged"):
            decode(text, 256, 256)


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=200)
@given(
    st.binary(max_size=300), st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF"]), st.integers(0, 10**6)
)
def test_damaged_files_never_raise_anything_else(noise: bytes, kind: str, place: int) -> None:
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    buffer = io.BytesIO()
    Image.fromarray(HILL).save(buffer, kind, exif=turned)
    content = bytearray(buffer.getvalue())
    start = place % len(content)
    content[start : start + len(noise)] = noise
    text = base64.b64encode(bytes(content)).decode()
    for decode, channels in ((decode_depth, 1), (decode_image, 3)):
        try:
            assert len(decode(text, 64, 48).pixels) == 64 * 48 * channels
        except (UnreadablePictureError, PictureTooLargeError):
            continue


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "I;16", "F", "CMYK", "1"])
def test_photographs_of_every_kind(mode: str) -> None:
    grey = Image.fromarray(HILL)
    if mode == "I;16":
        picture = Image.fromarray(HILL.astype(np.uint16) * 257)
    else:
        picture = grey.convert("RGB").convert(mode)
    colour = np.frombuffer(decode_image(encoded(picture, "TIFF"), 64, 48).pixels, np.uint8)
    assert np.corrcoef(colour.reshape(48, 64, 3)[..., 0].ravel(), HILL.ravel())[0, 1] > 0.5


def test_photographs_are_rotated_upright_and_have_a_digest() -> None:
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 3
    plain, upside_down = (
        encoded(Image.fromarray(HILL[:, ::-1] // 2), "PNG", exif=exif) for exif in (None, turned)
    )
    first, second = (decode_image(text, 64, 48) for text in (plain, upside_down))
    shape = (48, 64, 3)
    np.testing.assert_array_equal(
        np.frombuffer(first.pixels, np.uint8).reshape(shape),
        np.frombuffer(second.pixels, np.uint8).reshape(shape)[::-1, ::-1],
    )
    assert first.digest == hashlib.sha256(base64.b64decode(plain)).hexdigest() != second.digest


def test_damaged_exif_is_an_unreadable_image() -> None:
    """Its type is exchanged for text, which Pillow cannot write back when it turns the picture."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.ResolutionUnit] = 2
    content = base64.b64decode(encoded(Image.fromarray(HILL), "JPEG", exif=exif))
    unit = struct.pack(">HHI", ExifTags.Base.ResolutionUnit, 3, 1)
    assert unit in content
    broken = content.replace(unit, struct.pack(">HHI", ExifTags.Base.ResolutionUnit, 2, 1))
    with pytest.raises(UnreadablePictureError, match="damaged"):
        decode_image(base64.b64encode(broken).decode(), 64, 48)


@settings(max_examples=100)
@given(st.text(max_size=200))
def test_any_text_is_decoded_or_refused(text: str) -> None:
    with pytest.raises(UnreadablePictureError):
        decode_depth(text, 64, 48)


def test_the_mock_is_bright_in_the_centre() -> None:
    grey = np.frombuffer(mock_depth(320, 256).pixels, np.uint8).reshape(256, 320)
    assert grey[128, 160] >= 253
    assert grey[0, 0] == grey[255, 319] == 0
    assert grey[128, 160] > grey[128, 80] > grey[128, 20]
    np.testing.assert_array_equal(grey, grey[::-1, ::-1])
