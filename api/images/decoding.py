"""Pictures that clients send, and depth maps as one grey byte per pixel."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from api.images.depth_checks import Grey, adjusted, suspicions
from api.images.inspection import (
    Outline,
    PictureTooLargeError,
    UnreadablePictureError,
    check_size,
    inspect,
    is_picture,
)

MIN_SIDE, MAX_SIDE, SIDE_STEP = 256, 2048, 8
"""What an output's width and height may be."""

ORDINARY_WORK = 8_000_000
"""Pixels, times scans, of a picture that takes a fraction of a second."""

_DATA_URL = re.compile(rb"data:[\w.+/-]*(;[\w=.+-]+)*;base64,", re.ASCII)
_BEGINNING, _TELLING = 512, 16
"""Characters of a text that are looked at first; of base64 that tell whether it is a picture."""

_WHITE_SPACE = b" \t\n\r\f\v"
_SIXTEEN_BIT = {"I;16", "I;16L", "I;16B", "I;16N"}
_TRANSPARENT = {"RGBA", "LA", "PA", "P"}

# Pillow's own guard is a warning at a smaller size and an exception at a larger one; the limit
# is checked here, from the header, before anything is decoded.
Image.MAX_IMAGE_PIXELS = None


class LaboriousPictureError(Exception):
    """A picture that may be decoded, and takes long."""


@dataclass(frozen=True, slots=True)
class DepthMap:
    """A depth map at the output's size: uint8 of `height * width` bytes, near = bright.

    `warnings` say what looks wrong about it; `digest` is the SHA-256 of the sender's file, empty
    where there was none.
    """

    pixels: bytes
    warnings: tuple[str, ...] = ()
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Photograph:
    """A picture at the output's size: uint8 RGB of `height * width * 3` bytes; see DepthMap."""

    pixels: bytes
    digest: str
    width: int
    height: int


def decode_depth(
    text: bytes,
    width: int,
    height: int,
    *,
    invert: bool = False,
    normalize: bool = False,
    max_work: int | None = None,
) -> DepthMap:
    """Decode a depth map, change it as asked, and resize it to the output.

    Grey is kept, 16 bit scaled to 8; colour is converted to luminance, transparency is laid over
    black. Of an animation the first frame counts.

    Args:
        text: base64, with or without a `data:` prefix; white space is ignored.
        width: of the result, in pixels.
        height: of the result, in pixels.
        invert: turn near and far round.
        normalize: stretch the map's values over the whole range; 16 bit keep their precision.
        max_work: pixels times scans beyond which it is not decoded.

    Raises:
        UnreadablePictureError: not base64, not a picture of an accepted format, damaged.
        PictureTooLargeError: more than 64 megapixels.
        LaboriousPictureError: more than `max_work`.
    """
    content = _decode_base64(text)
    picture = _open(content, max_work)
    with _damage_told():
        grey = _to_grey(picture)
    # What a switch mends is no matter for a warning.
    changed = adjusted(grey, invert, normalize)
    odd = suspicions(changed, picture.mode in _SIXTEEN_BIT)
    pixels = _resized(changed, width, height)
    return DepthMap(pixels, odd, hashlib.sha256(content).hexdigest())


def decode_image(
    text: bytes, width: int | None, height: int | None, *, max_work: int | None = None
) -> Photograph:
    """Decode a photograph and resize it to the output, like the depth map beside it.

    Transparency is laid over black; the camera's orientation is respected.

    Args:
        text: base64, with or without a `data:` prefix; white space is ignored.
        width: of the result, in pixels; without it what keeps the photograph's proportions.
        height: of the result, likewise; without both its own size, within the output's bounds.
        max_work: pixels times scans beyond which it is not decoded.

    Raises:
        UnreadablePictureError: not base64, not a picture of an accepted format, damaged.
        PictureTooLargeError: more than 64 megapixels.
        LaboriousPictureError: more than `max_work`.
    """
    content = _decode_base64(text)
    picture = _open(content, max_work)
    with _damage_told():
        colour = _to_colour(picture)
    size = _output_size(*colour.size, width, height)
    if colour.size != size:
        colour = colour.resize(size, Image.Resampling.LANCZOS)
    return Photograph(colour.tobytes(), hashlib.sha256(content).hexdigest(), *size)


def check_beginning(text: str) -> None:
    """Check by its first characters that a text may be a picture, before it is sent anywhere.

    Raises:
        UnreadablePictureError: it is none.
    """
    beginning = _payload(text[:_BEGINNING].encode("ascii", "replace"))
    if len(beginning) >= _TELLING and not is_picture(_unpacked(beginning[:_TELLING])):
        raise UnreadablePictureError("not a picture")


def adjusted_depth(
    pixels: bytes, width: int, height: int, *, invert: bool, normalize: bool
) -> DepthMap:
    """An estimated depth map, uint8 of `height * width` bytes, changed as asked."""
    grey = np.frombuffer(pixels, np.uint8).reshape(height, width).astype(np.float32)
    changed = adjusted(grey, invert, normalize)
    return DepthMap(_resized(changed, width, height), suspicions(changed))


def encode_depth(pixels: bytes, width: int, height: int) -> bytes:
    """A depth map of `height * width` bytes as an 8-bit grey PNG."""
    buffer = io.BytesIO()
    Image.frombytes("L", (width, height), pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def mock_depth(
    width: int, height: int, *, invert: bool = False, normalize: bool = False
) -> DepthMap:
    """A radial gradient, 255 in the centre, 0 at the nearer edges, changed as asked."""
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    distance = np.sqrt((x * width) ** 2 + (y * height) ** 2) / min(width, height)
    gradient = (255 * np.clip(1 - distance, 0, 1)).astype(np.float32)
    return DepthMap(_resized(adjusted(gradient, invert, normalize), width, height))


def _decode_base64(text: bytes) -> bytes:
    payload = _payload(text)
    if not payload:
        raise UnreadablePictureError("empty")
    return _unpacked(payload + b"=" * (-len(payload) % 4))


def _payload(text: bytes) -> bytes:
    """What follows a `data:` prefix, without white space."""
    prefix = _DATA_URL.match(text[:256].lstrip(_WHITE_SPACE))
    start = text.index(b",") + 1 if prefix else 0
    return text[start:].translate(None, _WHITE_SPACE)


def _unpacked(payload: bytes) -> bytes:
    try:
        return base64.b64decode(payload, validate=True)
    except binascii.Error:
        raise UnreadablePictureError("not base64") from None


def _open(content: bytes, max_work: int | None) -> Image.Image:
    """The decoded picture; what it is made of is looked at before."""
    outline = inspect(content)
    if max_work is not None and outline.work > max_work:
        raise LaboriousPictureError
    with _damage_told():
        picture = Image.open(io.BytesIO(content), formats=[outline.format])
        check_size(Outline(outline.format, *picture.size))
        picture.load()
        return picture


@contextlib.contextmanager
def _damage_told() -> Iterator[None]:
    """Pillow's many errors as one."""
    try:
        yield
    except (UnreadablePictureError, PictureTooLargeError, MemoryError):
        raise
    except Exception:
        # What damaged files raise has no common class: struct.error and TypeError were seen too.
        raise UnreadablePictureError("the picture is damaged or truncated") from None


def _to_grey(picture: Image.Image) -> Grey:
    """float32 [h, w] in 0 to 255."""
    if picture.mode in _SIXTEEN_BIT:
        return np.asarray(picture).astype(np.float32) / 257.0
    if picture.mode in {"I", "F"}:
        values = np.asarray(picture).astype(np.float32)
        if not np.isfinite(values).all():
            raise ValueError("not finite")
        top = float(values.max(initial=0.0))
        # Pillow reads some 16-bit pictures as 32-bit integers, and float maps may end at 1.
        scale = 255.0 if top <= 1.0 and picture.mode == "F" else 1.0 if top <= 255.0 else 1 / 257.0
        return np.clip(values * scale, 0.0, 255.0)
    return np.asarray(_opaque(picture).convert("L")).astype(np.float32)


def _to_colour(picture: Image.Image) -> Image.Image:
    """RGB, upright."""
    ImageOps.exif_transpose(picture, in_place=True)
    if picture.mode in _SIXTEEN_BIT or picture.mode in {"I", "F"}:
        return Image.fromarray(_to_grey(picture).round().astype(np.uint8)).convert("RGB")
    return _opaque(picture).convert("RGB")


def _opaque(picture: Image.Image) -> Image.Image:
    """The picture over black where it is transparent."""
    if picture.mode not in _TRANSPARENT and "transparency" not in picture.info:
        return picture
    rgba = picture if picture.mode == "RGBA" else picture.convert("RGBA")
    black = Image.new("RGB", rgba.size)
    black.paste(rgba, mask=rgba)
    return black


def _output_size(
    own_width: int, own_height: int, width: int | None, height: int | None
) -> tuple[int, int]:
    """Width and height of the output, those that are None from the photograph's own."""
    if width is not None and height is not None:
        return width, height
    if width is not None:
        scale = width / own_width
    elif height is not None:
        scale = height / own_height
    else:
        scale = max(min(1.0, MAX_SIDE / max(own_width, own_height)), MIN_SIDE / own_width)
        scale = max(scale, MIN_SIDE / own_height)

    def within(side: float) -> int:
        return int(min(max(round(side / SIDE_STEP) * SIDE_STEP, MIN_SIDE), MAX_SIDE))

    return width or within(own_width * scale), height or within(own_height * scale)


def _resized(grey: Grey, width: int, height: int) -> bytes:
    if grey.shape != (height, width):
        resized = Image.fromarray(grey).resize((width, height), Image.Resampling.BICUBIC)
        grey = np.asarray(resized)
    return grey.clip(0, 255).round().astype(np.uint8).tobytes()
