"""Image files that cost more than their size suggests: for tests and the benchmark of abuse."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

from PIL import Image

_SCAN = b"\xff\xda"


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """Return an encoded image."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *before: bytes, rows: int | None = None) -> bytes:
    """Return a black 8-bit greyscale PNG.

    Args:
        width: pixels.
        height: pixels.
        *before: chunks before the pixel data.
        rows: number of encoded rows; default: all.
    """
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packer = zlib.compressobj(9)
    row = bytes(width + 1)
    packed = b"".join(packer.compress(row) for _ in range(height if rows is None else rows))
    packed += packer.flush()
    chunks = (
        png_chunk(b"IHDR", header),
        *before,
        png_chunk(b"IDAT", packed),
        png_chunk(b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def progressive(width: int, height: int, scans: int) -> bytes:
    """Return a black progressive JPEG with a repeated first scan.

    Args:
        width: pixels.
        height: pixels.
        scans: number of repetitions of the first scan.
    """
    content = saved(Image.new("L", (width, height)), "JPEG", progressive=True)
    first = content.index(_SCAN)
    end = content.index(b"\xff\xc4", first)
    return content[:first] + content[first:end] * scans + content[end:]


def jpeg_with(inserted: bytes) -> bytes:
    """Return a JPEG with bytes inserted after its first marker."""
    content = saved(Image.new("L", (256, 256), 99), "JPEG")
    return content[:2] + inserted + content[2:]


def tiff(entries: list[tuple[int, int, int, int]], tail: bytes = b"", big: bool = False) -> bytes:
    """Return a TIFF of one directory.

    Args:
        entries: tag, type, number of values, and the value or its offset.
        tail: bytes after the directory.
        big: write a BigTIFF.
    """
    head, entry, count = ("<HHQQ", "<HHQQ", "<Q") if big else ("<HI", "<HHII", "<H")
    start = b"II" + (struct.pack("<HHHQ", 43, 8, 0, 16) if big else struct.pack(head, 42, 8))
    directory = struct.pack(count, len(entries)) + b"".join(
        struct.pack(entry, *values) for values in sorted(entries)
    )
    return start + directory + bytes(8 if big else 4) + tail


def tiff_of_strips(strips: int, big: bool = False) -> bytes:
    """Return a greyscale TIFF with `strips` strips that share the same byte."""
    kind, size = (16, 8) if big else (4, 4)
    entries = [
        (256, 3, 1, 1000), (257, 3, 1, 1000), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
        (273, kind, strips, 1000), (277, 3, 1, 1), (278, 3, 1, 1), (279, kind, strips, 1000),
    ]  # fmt: skip
    head = tiff(entries, big=big)
    return head + bytes(1000 - len(head)) + (100).to_bytes(size, "little") * strips


def exif_of(entries: int, size: int) -> bytes:
    """Return EXIF data with `entries` entries that share the same `size` bytes."""
    return tiff([(0x9000 + number, 7, size, 8) for number in range(entries)], bytes(size))


def webp_with(kind: bytes, data: bytes, times: int = 1) -> bytes:
    """Return a WebP with an additional chunk.

    Args:
        kind: four-character code of the chunk.
        data: content of the chunk.
        times: number of copies.
    """
    content = saved(Image.new("RGBA", (256, 256), (9, 9, 9, 9)), "WEBP", exif=b"Exif\0\0II*\0")
    chunk = kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)
    body = content[8:30] + chunk * times + content[30:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


HOSTILE: dict[str, Callable[[], bytes]] = {
    "progressive JPEG of 300 scans": lambda: progressive(2000, 2000, 300),
    "progressive JPEG of 64 scans, 62 megapixels": lambda: progressive(7900, 7900, 64),
    "baseline JPEG whose scans are repeated": lambda: _repeated_baseline(2000, 400),
    "TIFF of 6 million strips": lambda: tiff_of_strips(6_000_000),
    "BigTIFF of 3 million strips": lambda: tiff_of_strips(3_000_000, big=True),
    "TIFF of 60,000 entries": lambda: tiff([(n, 7, 2**20, 8) for n in range(60_000)], bytes(2**20)),
    "TIFF whose entries share their bytes": lambda: tiff(
        [(0x9000 + n, 7, 20 * 2**20, 8) for n in range(1000)], bytes(20 * 2**20)
    ),
    "JPEG filled with 0xFF": lambda: jpeg_with(b"\xff" * 23_000_000),
    "JPEG filled with escaped 0xFF": lambda: jpeg_with(b"\xff\0" * 11_000_000),
    "JPEG filled with junk": lambda: jpeg_with(b"\xff\xfe\0\2" + b"\x11" * 23_000_000),
    "JPEG of millions of comments": lambda: jpeg_with(b"\xff\xfe\0\2" * 5_500_000),
    "JPEG of EXIF that shares its bytes": lambda: jpeg_with(app1(exif_of(1000, 30_000))),
    "PNG of millions of chunks": lambda: png(256, 256, png_chunk(b"tEXt", b"a\0b") * 1_500_000),
    "PNG of 20 MB of EXIF": lambda: png(256, 256, png_chunk(b"eXIf", exif_of(1000, 20 * 2**20))),
    "PNG with an EXIF profile as text": lambda: png(256, 256, png_chunk(b"zTXt", _raw_exif())),
    "PNG of 64,000,000x1": lambda: png(64_000_000, 1),
    "PNG of 1x64,000,000": lambda: png(1, 64_000_000, rows=1000),
    "PNG of 16,384 by 400": lambda: png(16_384, 400),
    "PNG of 64 megapixels": lambda: png(8000, 8000),
    "PNG of 64 megapixels, one row": lambda: png(8000, 8000, rows=1),
    "PNG profile that unpacks": lambda: png(
        256, 256, png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(400_000_000), 9))
    ),
    "WebP of a million chunks": lambda: webp_with(b"ABCD", b"", 1_000_000),
    "WebP of 20 MB of EXIF": lambda: webp_with(b"EXIF", exif_of(1000, 20 * 2**20)),
    "lossless WebP of 64 megapixels": lambda: saved(
        Image.new("RGB", (8000, 8000), "red"), "WEBP", lossless=True, method=0
    ),
    "JPEG of 64 megapixels": lambda: saved(Image.new("RGB", (8000, 8000), "red"), "JPEG"),
    "TIFF of 64 megapixels, packed": lambda: saved(
        Image.new("F", (8000, 8000)), "TIFF", compression="tiff_adobe_deflate"
    ),
}  # fmt: skip
"""Generators by name: some take a second, so each runs only on demand."""


def _repeated_baseline(side: int, scans: int) -> bytes:
    content = saved(Image.new("L", (side, side)), "JPEG")
    first = content.index(_SCAN)
    return content[:first] + content[first:-2] * scans + content[-2:]


def app1(exif: bytes) -> bytes:
    """Return EXIF data as a segment of a JPEG."""
    return b"\xff\xe1" + struct.pack(">H", len(exif) + 8) + b"Exif\0\0" + exif


def _raw_exif() -> bytes:
    """Return EXIF data as written by ImageMagick: hexadecimal digits in a compressed text chunk."""
    exif = b"Exif\0\0" + exif_of(1000, 400_000)
    text = f"\nexif\n{len(exif):8}\n{exif.hex()}\n".encode()
    return b"Raw profile type exif\0\0" + zlib.compress(text, 9)
