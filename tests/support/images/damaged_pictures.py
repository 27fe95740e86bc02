"""Damaged, oversized and foreign pictures with the statuses they may get."""

from __future__ import annotations

import struct
import zlib

from PIL import Image

from testing.hostile_pictures import png_chunk, saved
from tests.support.images.pictures import hill


def png_bomb(width: int, height: int) -> bytes:
    """A valid header, and at most 16 MiB of pixels that unpack to a thousand times their bytes."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * min((width + 1) * min(height, 2000), 2**24), 9)[:-8]
    parts = [png_chunk(b"IHDR", header), png_chunk(b"IDAT", rows), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


HILL = Image.fromarray(hill())
PICTURES: dict[str, tuple[bytes, tuple[int, ...]]] = {
    "more pixels than allowed": (png_bomb(8001, 8001), (413,)),
    "a side of two billion": (png_bomb(2**31 - 1, 1)[:64], (400, 413)),
    "64 million pixels in a row": (png_bomb(64_000_000, 1)[:64], (413,)),
    "sixteen thousand pixels by four": (saved(Image.new("L", (16_000, 4)), "PNG"), (400,)),
    "no pixels at all": (png_bomb(0, 0), (400,)),
    "fewer rows than it says": (png_bomb(7000, 7000), (400,)),
    "text chunk that unpacks": (
        saved(HILL, "PNG")[:33] + png_chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 80_000_000)),
        (400,),
    ),
    "truncated PNG": (saved(HILL, "PNG")[:-200], (400,)),
    "truncated JPEG": (saved(HILL, "JPEG")[:300], (400,)),
    "truncated WebP": (saved(HILL, "WEBP")[:100], (400,)),
    "truncated TIFF": (saved(HILL, "TIFF")[:500], (400,)),
    "a TIFF that points at itself": (b"II*\0\x08\0\0\0\x01\0" + b"\0" * 12 + b"\x08\0\0\0", (400,)),
    "a TIFF of a billion pixels": (
        saved(HILL, "TIFF").replace(struct.pack("<HHII", 256, 4, 1, HILL.width),
                                    struct.pack("<HHII", 256, 4, 1, 2**30)), (400, 413)),
    "a GIF": (saved(HILL, "GIF"), (400,)),
    "an SVG that fetches": (b'<svg><image href="file:///etc/passwd"/></svg>', (400,)),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n", (400,)),
    "an ImageMagick script": (b"push graphic-context\nimage over 0,0 0,0 '|id'", (400,)),
}  # fmt: skip
