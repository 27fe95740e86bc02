"""Inspection of image files: size and decoding cost, read without decoding.

The file determines the work of its decoder. A JPEG of one megabyte may require a thousand passes
over sixty megapixels, and a TIFF millions of reads. Walking over a file's parts takes milliseconds.

Structures: the PNG specification (3rd edition, chapter 5), ITU-T T.81 annex B (JPEG), the WebP
container specification, TIFF 6.0 section 2 and the BigTIFF extension, which EXIF uses too.
"""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

from common.limits import MAX_PIXELS

MAX_UPLOAD_SIDE = 16_384
MAX_ASPECT = 32
MAX_SCANS = 64
MAX_WORK = 10 * MAX_PIXELS
"""Maximum of pixels times scans; encoders write progressive JPEGs with ten scans."""

MAX_PARTS = 16_384
"""Maximum number of PNG chunks, JPEG segments or WebP chunks."""

MAX_STRIPS = 65_536
"""Maximum number of strips or tiles of a TIFF."""

MAX_ENTRIES = 1_024
"""Maximum number of entries in a TIFF or EXIF directory."""

MAX_EXIF = 2**20
"""Maximum bytes of EXIF, which Pillow copies for every further piece."""

_MAX_JUNK = 2**16
_MAX_OVERLAP = 4
_PNG = b"\x89PNG\r\n\x1a\n"
# Excludes escaped 0xFF and restarts, which occur in compressed data, and fill bytes.
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_START_OF_SCAN, _END_OF_IMAGE, _APP1 = 0xDA, 0xD9, 0xE1
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_TIFF = frozenset({b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"})
# Bytes per value by TIFF type; 1 for types not listed.
_TYPE_SIZES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_NUMBERS = {3: "H", 4: "I", 16: "Q"}
_WIDTH, _HEIGHT, _STRIPS, _TILES = 256, 257, 273, 324


class UnreadablePictureError(ValueError):
    """File that is not an acceptable image; the message states the reason."""


class PictureTooLargeError(ValueError):
    """Image that exceeds a size limit; the message names the limit."""


@dataclass(frozen=True, slots=True)
class Outline:
    """Image format in Pillow's naming, size in pixels, and number of decoder passes."""

    format: str
    width: int
    height: int
    scans: int = 1

    @property
    def work(self) -> int:
        """Pixels that a decoder processes, summed over its passes."""
        return self.width * self.height * self.scans


def is_picture(beginning: bytes) -> bool:
    """Return whether the first 12 or more bytes are those of an accepted image format."""
    try:
        _reader(beginning)
    except UnreadablePictureError:
        return False
    return True


def inspect(content: bytes) -> Outline:
    """Walk over a file's parts, check them against the limits, and return its outline.

    Raises:
        UnreadablePictureError: the file is not a PNG, JPEG, WebP or TIFF, is damaged, or has too
            many parts.
        PictureTooLargeError: the image has too many pixels or a side that is too long.
    """
    try:
        outline = _reader(content)(content)
    except (struct.error, IndexError):
        raise UnreadablePictureError("the image is damaged or truncated") from None
    check_size(outline)
    return outline


def _reader(content: bytes) -> Callable[[bytes], Outline]:
    if content.startswith(_PNG):
        return _png
    if content.startswith(b"\xff\xd8\xff"):
        return _jpeg
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return _webp
    if content[:4] in _TIFF:
        return _tiff
    raise UnreadablePictureError("not an image")


def check_size(outline: Outline) -> None:
    """Check an image's size, and its number of scans at that size.

    Raises:
        UnreadablePictureError: the image is empty, too narrow, or has too many scans.
        PictureTooLargeError: the image has too many pixels or a side that is too long.
    """
    width, height = outline.width, outline.height
    size = f"{width} by {height} pixels"
    if width * height > MAX_PIXELS:
        raise PictureTooLargeError(f"{size} exceed 64 megapixels")
    if max(width, height) > MAX_UPLOAD_SIDE:
        raise PictureTooLargeError(f"{size} exceed {MAX_UPLOAD_SIDE} a side")
    if min(width, height) < 1:
        raise UnreadablePictureError("the image is damaged or truncated")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UnreadablePictureError(f"{size} are narrower than 1 to {MAX_ASPECT}")
    if outline.scans > MAX_SCANS or outline.work > MAX_WORK:
        most = min(MAX_SCANS, MAX_WORK // (width * height))
        raise UnreadablePictureError(f"a JPEG of more than {most} scans, at {size}")


def _png(content: bytes) -> Outline:
    width, height = struct.unpack_from(">II", content, 16)
    position, parts = len(_PNG), 0
    while position + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, position)
        parts += 1
        if parts > MAX_PARTS:
            raise UnreadablePictureError(f"a PNG of more than {MAX_PARTS} chunks")
        if kind == b"eXIf":
            _check_exif(content[position + 8 : position + 8 + length])
        if kind == b"IEND":
            break
        position += 12 + length
    return Outline("PNG", width, height)


def _jpeg(content: bytes) -> Outline:
    size, scans, parts, junk = (0, 0), 0, 0, 0
    exif: list[bytes] = []
    position = 2
    while True:
        # Before the first scan, Pillow reads byte by byte.
        end = len(content) if scans else position + _MAX_JUNK - junk
        match = _MARKER.search(content, position, end)
        if (match is None and end < len(content)) or parts > MAX_PARTS:
            raise UnreadablePictureError("a JPEG of fill bytes instead of an image")
        if match is None:
            break
        marker = match[1][0]
        junk += 0 if scans else match.start() - position
        parts += 1
        position = match.end()
        if marker == _END_OF_IMAGE:
            break
        if marker in _WITHOUT_LENGTH:
            continue
        (length,) = struct.unpack_from(">H", content, position)
        if marker in _FRAMES and size == (0, 0):
            height, width = struct.unpack_from(">HH", content, position + 3)
            size = width, height
        elif marker == _START_OF_SCAN:
            scans += 1
            if scans > MAX_SCANS:
                break
        elif marker == _APP1 and content[position + 2 : position + 8] == b"Exif\0\0":
            exif.append(content[position + 8 : position + length])
        position += max(length, 2)
    _check_exif(b"".join(exif))
    return Outline("JPEG", *size, max(scans, 1))


def _webp(content: bytes) -> Outline:
    size, position, parts = None, 12, 0
    while position + 8 <= len(content):
        kind, length = struct.unpack_from("<4sI", content, position)
        parts += 1
        if parts > MAX_PARTS:
            raise UnreadablePictureError(f"a WebP of more than {MAX_PARTS} chunks")
        body = position + 8
        if kind == b"EXIF":
            _check_exif(content[body : body + length])
        # A canvas chunk precedes the image chunk, whose size counts otherwise.
        size = size or _webp_size(kind, content, body)
        position = body + length + length % 2
    if size is None:
        raise UnreadablePictureError("the image is damaged or truncated")
    return Outline("WEBP", *size)


def _webp_size(kind: bytes, content: bytes, at: int) -> tuple[int, int] | None:
    if kind == b"VP8X":
        sides = content[at + 4 : at + 7], content[at + 7 : at + 10]
        width, height = (int.from_bytes(side, "little") + 1 for side in sides)
        return width, height
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", content, at + 6)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", content, at + 1)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None


def _tiff(content: bytes) -> Outline:
    values = _directory(content)
    for name, tag in (("strips", _STRIPS), ("tiles", _TILES)):
        if values.get(tag, (0, 0))[0] > MAX_STRIPS:
            raise UnreadablePictureError(f"a TIFF of more than {MAX_STRIPS} {name}")
    width, height = (values.get(tag, (0, 0))[1] for tag in (_WIDTH, _HEIGHT))
    return Outline("TIFF", width, height)


def _check_exif(exif: bytes) -> None:
    if len(exif) > MAX_EXIF:
        raise UnreadablePictureError("EXIF of more than 1 MiB")
    exif = exif.removeprefix(b"Exif\0\0")
    if exif[:4] not in _TIFF:
        return
    # Pillow ignores unreadable EXIF, so this check may too.
    with contextlib.suppress(struct.error):
        _directory(exif)


def _directory(content: bytes) -> dict[int, tuple[int, int]]:
    """Return the entries of a TIFF's first directory: by tag, number of values and first value.

    The first value is 0 unless the entry itself contains it as a single integer.

    Raises:
        UnreadablePictureError: the directory has too many entries or bytes.
    """
    order = "<" if content[:2] == b"II" else ">"
    offset, count = ("Q", "Q") if b"+" in content[2:4] else ("I", "H")
    head = struct.Struct(f"{order}HH{offset}")
    (start,) = struct.unpack_from(order + offset, content, 8 if offset == "Q" else 4)
    (entries,) = struct.unpack_from(order + count, content, start)
    if entries > MAX_ENTRIES:
        raise UnreadablePictureError(f"a directory of more than {MAX_ENTRIES} entries")
    position = start + struct.calcsize(order + count)
    values, total = {}, 0
    for _ in range(entries):
        tag, kind, amount = head.unpack_from(content, position)
        total += amount * _TYPE_SIZES.get(kind, 1)
        # Pillow reads every value, overlapping ones too; some programs write wrong lengths.
        if total > _MAX_OVERLAP * len(content) + _MAX_JUNK:
            raise UnreadablePictureError("a directory that names more bytes than the file has")
        number = _NUMBERS.get(kind)
        first = 0
        if number is not None and amount == 1:
            (first,) = struct.unpack_from(order + number, content, position + head.size)
        values[tag] = amount, first
        position += head.size + struct.calcsize(offset)
    return values
