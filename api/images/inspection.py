"""What a picture file will cost, read from its structure before anything decodes it.

A decoder takes as long as the file asks it to: a JPEG of a megabyte may ask for a thousand passes
over sixty megapixels, a TIFF for millions of reads. Walking over a file's parts takes milliseconds.

Structures: the PNG specification (3rd edition, chapter 5), ITU-T T.81 annex B (JPEG), the WebP
container specification, TIFF 6.0 section 2 and the BigTIFF extension, which EXIF uses too.
"""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

MAX_PIXELS = 64_000_000
MAX_SIDE = 16_384
MAX_ASPECT = 32
MAX_SCANS = 64
MAX_WORK = 10 * MAX_PIXELS
"""Of pixels times scans; ten scans are what encoders make of a progressive JPEG."""

MAX_PARTS = 16_384
"""PNG chunks, JPEG segments, WebP chunks."""

MAX_STRIPS = 65_536
"""Of a TIFF's strips or tiles."""

MAX_ENTRIES = 1_024
"""Of a directory of a TIFF or of EXIF."""

_MAX_JUNK = 2**16
_MAX_OVERLAP = 4
_PNG = b"\x89PNG\r\n\x1a\n"
# Not an escaped 0xFF, nor a restart, which compressed data may have; nor 0xFF that fills.
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_START_OF_SCAN, _END_OF_IMAGE, _APP1 = 0xDA, 0xD9, 0xE1
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_TIFF = frozenset({b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"})
# Bytes of a value by its TIFF type; one where it is another.
_TYPE_SIZES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_NUMBERS = {3: "H", 4: "I", 16: "Q"}
_WIDTH, _HEIGHT, _STRIPS, _TILES = 256, 257, 273, 324


class UnreadablePictureError(ValueError):
    """A file that is no picture of an accepted format, or is not decoded; the message says why."""


class PictureTooLargeError(ValueError):
    """A picture beyond the limits of size; the message says which."""


@dataclass(frozen=True, slots=True)
class Outline:
    """A picture's format by Pillow's name, its size in pixels, and the passes its decoder makes."""

    format: str
    width: int
    height: int
    scans: int = 1

    @property
    def work(self) -> int:
        """Pixels that a decoder visits, with repetition."""
        return self.width * self.height * self.scans


def is_picture(beginning: bytes) -> bool:
    """Whether a file that begins so may be a picture of an accepted format; 12 bytes tell."""
    try:
        _reader(beginning)
    except UnreadablePictureError:
        return False
    return True


def inspect(content: bytes) -> Outline:
    """Walk over a file's parts and check them against the limits.

    Raises:
        UnreadablePictureError: no PNG, JPEG, WebP or TIFF, or one with more parts than any need.
        PictureTooLargeError: more pixels, or a longer side, than are accepted.
    """
    try:
        outline = _reader(content)(content)
    except (struct.error, IndexError):
        raise UnreadablePictureError("the picture is damaged or truncated") from None
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
    raise UnreadablePictureError("not a picture")


def check_size(outline: Outline) -> None:
    """Check a picture's size, and its scans at that size; raises what `inspect` does."""
    width, height = outline.width, outline.height
    size = f"{width} by {height} pixels"
    if width * height > MAX_PIXELS:
        raise PictureTooLargeError(f"{size} exceed 64 megapixels")
    if max(width, height) > MAX_SIDE:
        raise PictureTooLargeError(f"{size} exceed {MAX_SIDE} a side")
    if min(width, height) < 1:
        raise UnreadablePictureError("the picture is damaged or truncated")
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
        # Before the first scan Pillow looks at every byte by itself.
        end = len(content) if scans else position + _MAX_JUNK - junk
        found = _MARKER.search(content, position, end)
        if (found is None and end < len(content)) or parts > MAX_PARTS:
            raise UnreadablePictureError("a JPEG of filling instead of a picture")
        if found is None:
            break
        marker = found[1][0]
        junk += 0 if scans else found.start() - position
        parts += 1
        position = found.end()
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
        # The canvas comes first, where there is one; the picture's own size otherwise.
        size = size or _webp_size(kind, content, body)
        position = body + length + length % 2
    if size is None:
        raise UnreadablePictureError("the picture is damaged or truncated")
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
    exif = exif.removeprefix(b"Exif\0\0")
    if exif[:4] not in _TIFF:
        return
    # Pillow leaves out what it cannot read, and so may this.
    with contextlib.suppress(struct.error):
        _directory(exif)


def _directory(content: bytes) -> dict[int, tuple[int, int]]:
    """Return, by tag, the number of values in a TIFF's first directory, and the first of them.

    The first is 0 where it is no integer that stands in the entry itself.
    """
    order = "<" if content[:2] == b"II" else ">"
    offset, count = ("Q", "Q") if b"+" in content[2:4] else ("I", "H")
    head = struct.Struct(f"{order}HH{offset}")
    (start,) = struct.unpack_from(order + offset, content, 8 if offset == "Q" else 4)
    (entries,) = struct.unpack_from(order + count, content, start)
    if entries > MAX_ENTRIES:
        raise UnreadablePictureError(f"a directory of more than {MAX_ENTRIES} entries")
    place = start + struct.calcsize(order + count)
    values, total = {}, 0
    for _ in range(entries):
        tag, kind, amount = head.unpack_from(content, place)
        total += amount * _TYPE_SIZES.get(kind, 1)
        # Pillow reads every value, overlapping ones too; some programs write wrong lengths.
        if total > _MAX_OVERLAP * len(content) + _MAX_JUNK:
            raise UnreadablePictureError("a directory that names more bytes than the file has")
        number = _NUMBERS.get(kind)
        first = 0
        if number is not None and amount == 1:
            (first,) = struct.unpack_from(order + number, content, place + head.size)
        values[tag] = amount, first
        place += head.size + struct.calcsize(offset)
    return values
