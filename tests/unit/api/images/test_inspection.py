"""The decoding cost of an image, estimated from its structure; hostile images are rejected."""

from __future__ import annotations

import base64
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from PIL import Image

from api.errors import InvalidDepthMap, TooLarge
from api.images.decoder_pool import LABORIOUS, ORDINARY, DecoderPool
from api.images.inspection import (
    MAX_SCANS,
    PictureTooLargeError,
    UnreadablePictureError,
    inspect,
)
from testing.hostile_pictures import (
    HOSTILE,
    app1,
    jpeg_with,
    png,
    png_chunk,
    progressive,
    saved,
    tiff_of_strips,
    webp_with,
)
from tests.support.images.pictures import hill

HILL = Image.fromarray(hill(640, 480))
# Large, and as good as any other: they take their seconds.
HONEST = {name for name in HOSTILE if "64 megapixels" in name} | {
    "PNG with an EXIF profile as text"
}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}), ("PNG", {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}), ("JPEG", {}),
        ("JPEG", {"progressive": True}), ("JPEG", {"restart_marker_rows": 1}), ("WEBP", {}),
        ("WEBP", {"lossless": True}), ("TIFF", {}), ("TIFF", {"big_tiff": True}),
        ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"tiffinfo": {278: 1}}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_formats_and_sizes(kind: str, options: dict[str, Any], mode: str) -> None:
    outline = inspect(saved(HILL.convert(mode), kind, **options))
    assert (outline.format, outline.width, outline.height) == (kind, 640, 480)
    assert outline.scans == 1 or options.get("progressive")


def test_animations_and_transparency() -> None:
    frames = [Image.new("RGBA", (320, 200), (shade, 0, 0, 9)) for shade in range(0, 250, 5)]
    for kind in ("PNG", "WEBP"):
        content = saved(frames[0], kind, save_all=True, append_images=frames[1:])
        assert (inspect(content).width, inspect(content).height) == (320, 200)


def test_scans_are_counted() -> None:
    base = inspect(progressive(640, 480, 1)).scans
    assert 5 < base < 12
    assert inspect(progressive(640, 480, 9)).scans == base + 8
    with pytest.raises(UnreadablePictureError, match=f"more than {MAX_SCANS} scans"):
        inspect(progressive(640, 480, MAX_SCANS))
    # A larger picture may have fewer.
    with pytest.raises(UnreadablePictureError, match="more than 10 scans, at 7900 by 7900"):
        inspect(progressive(7900, 7900, 9))


def test_documented_image_limits_are_enforced() -> None:
    assert inspect(png(16_384, 512, rows=1)).width == 16_384
    assert inspect(png(8000, 8000, rows=1)).work == 64_000_000
    for width, height, message in (
        (16_385, 2000, "16384 a side"), (8001, 8000, "64 megapixels"),
    ):  # fmt: skip
        with pytest.raises(PictureTooLargeError, match=message):
            inspect(png(width, height, rows=1))
    with pytest.raises(UnreadablePictureError, match="narrower than 1 to 32"):
        inspect(png(33, 1))
    assert inspect(tiff_of_strips(65_536)).height == 1000
    assert inspect(png(9, 9, png_chunk(b"tEXt", b"a\0b") * 16_000)).width == 9
    assert inspect(jpeg_with(b"\xff" * 60_000)).width == 256
    assert inspect(jpeg_with(app1(bytes(60_000)) * 17)).width == 256
    for content in (
        jpeg_with(app1(bytes(60_000)) * 18),
        png(9, 9, png_chunk(b"eXIf", bytes(2**20 + 1))),
        webp_with(b"EXIF", bytes(2**20 + 1)),
    ):
        with pytest.raises(UnreadablePictureError, match="EXIF of more than 1 MiB"):
            inspect(content)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_any_beginning_of_a_picture_is_a_picture_or_unreadable(kind: str) -> None:
    content = saved(HILL.resize((40, 30)), kind)
    for length in itertools.chain(range(60), range(60, len(content), 37)):
        try:
            inspect(content[:length])
        except UnreadablePictureError:
            continue


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def decoders() -> AsyncIterator[DecoderPool]:
    """The service's limits, but for the priority: other tests run beside this one."""
    pool = DecoderPool(1, replace(ORDINARY, niceness=0), replace(LABORIOUS, niceness=0))
    yield pool
    await pool.close()


@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_images_are_decoded_or_rejected(decoders: DecoderPool, name: str) -> None:
    text = base64.b64encode(HOSTILE[name]()).decode()
    if name in HONEST:
        assert len((await decoders.decode_depth(text, 256, 256)).pixels) == 256 * 256
    else:
        with pytest.raises((InvalidDepthMap, TooLarge)) as refused:
            await decoders.decode_depth(text, 256, 256)
        assert "more time or memory" not in refused.value.message
