"""Decoding of uploaded images and encoding of depth maps."""

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

from api.images.depth_checks import Grey, apply_depth_options, depth_warnings
from api.images.inspection import (
    Outline,
    PictureTooLargeError,
    UnreadablePictureError,
    check_size,
    inspect,
    is_picture,
)
from common.limits import MAX_SIDE, MIN_SIDE, SIDE_STEP

ORDINARY_WORK = 8_000_000
"""Pixels times scans of an image that decodes in a fraction of a second."""

_DATA_URL = re.compile(rb"data:[\w.+/-]*(;[\w=.+-]+)*;base64,", re.ASCII)
_PREFIX_CHARACTERS, _SIGNATURE_CHARACTERS = 512, 16
"""Characters of a text that are checked early; base64 characters that identify the format."""

_WHITE_SPACE = b" \t\n\r\f\v"
_SIXTEEN_BIT = {"I;16", "I;16L", "I;16B", "I;16N"}
_TRANSPARENT = {"RGBA", "LA", "PA", "P"}

# Pillow's own limit warns at a smaller size and raises at a larger one. This module checks the
# size from the header before decoding.
Image.MAX_IMAGE_PIXELS = None


class LaboriousPictureError(Exception):
    """Acceptable image that takes long to decode."""


@dataclass(frozen=True, slots=True)
class DepthMap:
    """Depth map at the output size.

    Attributes:
        pixels: uint8 `[height, width]`, 0 to 255, near = bright.
        warnings: suspected problems of the map.
        digest: SHA-256 of the uploaded file in hex; empty without a file.
    """

    pixels: bytes
    warnings: tuple[str, ...] = ()
    digest: str = ""


@dataclass(frozen=True, slots=True)
class RgbImage:
    """RGB image at the output size.

    Attributes:
        pixels: uint8 `[height, width, 3]`, 0 to 255.
        digest: SHA-256 of the uploaded file in hex.
        width: in pixels.
        height: in pixels.
    """

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
    """Decode a depth map, apply its options, and resize it to the output size.

    16-bit grey is scaled to 8 bits, and colour is converted to luminance. Transparent pixels are
    composited over black. An animation is reduced to its first frame.

    Args:
        text: base64 in ASCII, with or without a `data:` prefix; white space is ignored.
        width: width of the result in pixels.
        height: height of the result in pixels.
        invert: whether to swap near and far.
        normalize: whether to stretch the values to the full range, before the reduction to 8 bits.
        max_work: maximum of pixels times scans; None is no limit.

    Raises:
        UnreadablePictureError: the text is not base64 of an accepted format, or it is damaged.
        PictureTooLargeError: the image exceeds 64 megapixels or the limit per side.
        LaboriousPictureError: the image exceeds `max_work`.
    """
    content = _decode_base64(text)
    image = _open(content, max_work)
    with _translate_pillow_errors():
        grey = _to_grey(image)
    # Problems that the options correct need no warning.
    changed = apply_depth_options(grey, invert, normalize)
    warnings = depth_warnings(changed, image.mode in _SIXTEEN_BIT)
    pixels = _resize(changed, width, height)
    return DepthMap(pixels, warnings, hashlib.sha256(content).hexdigest())


def decode_image(
    text: bytes, width: int | None, height: int | None, *, max_work: int | None = None
) -> RgbImage:
    """Decode a photograph and resize it to the output size.

    Transparent pixels are composited over black. The EXIF orientation is applied.

    Args:
        text: base64 in ASCII, with or without a `data:` prefix; white space is ignored.
        width: width of the result in pixels; None keeps the proportions.
        height: height of the result in pixels, likewise; without both, the photograph's own size
            is clamped to the output's bounds.
        max_work: maximum of pixels times scans; None is no limit.

    Raises:
        UnreadablePictureError: the text is not base64 of an accepted format, or it is damaged.
        PictureTooLargeError: the image exceeds 64 megapixels or the limit per side.
        LaboriousPictureError: the image exceeds `max_work`.
    """
    content = _decode_base64(text)
    image = _open(content, max_work)
    with _translate_pillow_errors():
        colour = _to_colour(image)
    size = _output_size(*colour.size, width, height)
    if colour.size != size:
        colour = colour.resize(size, Image.Resampling.LANCZOS)
    return RgbImage(colour.tobytes(), hashlib.sha256(content).hexdigest(), *size)


def check_beginning(text: str) -> None:
    """Check by its first characters that a text may be an image, before any other work.

    Raises:
        UnreadablePictureError: the text is not base64 of an accepted format.
    """
    beginning = _payload(text[:_PREFIX_CHARACTERS].encode("ascii", "replace"))
    if len(beginning) >= _SIGNATURE_CHARACTERS and not is_picture(
        _b64decode(beginning[:_SIGNATURE_CHARACTERS])
    ):
        raise UnreadablePictureError("not an image")


def depth_from_estimate(
    pixels: bytes, width: int, height: int, *, invert: bool, normalize: bool
) -> DepthMap:
    """Return an estimated depth map with its options applied.

    Args:
        pixels: uint8 `[height, width]`, 0 to 255, near = bright.
        width: in pixels.
        height: in pixels.
        invert: whether to swap near and far.
        normalize: whether to stretch the values to the full range.
    """
    grey = np.frombuffer(pixels, np.uint8).reshape(height, width).astype(np.float32)
    changed = apply_depth_options(grey, invert, normalize)
    return DepthMap(_resize(changed, width, height), depth_warnings(changed))


def encode_depth(pixels: bytes, width: int, height: int) -> bytes:
    """Return a depth map as an 8-bit grey PNG.

    Args:
        pixels: uint8 `[height, width]`, 0 to 255.
        width: in pixels.
        height: in pixels.
    """
    buffer = io.BytesIO()
    Image.frombytes("L", (width, height), pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def mock_depth(
    width: int, height: int, *, invert: bool = False, normalize: bool = False
) -> DepthMap:
    """Return a radial gradient: 255 in the centre, 0 at the nearer edges.

    Args:
        width: in pixels.
        height: in pixels.
        invert: whether to swap near and far.
        normalize: whether to stretch the values to the full range.
    """
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    distance = np.sqrt((x * width) ** 2 + (y * height) ** 2) / min(width, height)
    gradient = (255 * np.clip(1 - distance, 0, 1)).astype(np.float32)
    return DepthMap(_resize(apply_depth_options(gradient, invert, normalize), width, height))


def _decode_base64(text: bytes) -> bytes:
    payload = _payload(text)
    if not payload:
        raise UnreadablePictureError("empty")
    return _b64decode(payload + b"=" * (-len(payload) % 4))


def _payload(text: bytes) -> bytes:
    """Return the text without its `data:` prefix and white space."""
    prefix = _DATA_URL.match(text[:256].lstrip(_WHITE_SPACE))
    start = text.index(b",") + 1 if prefix else 0
    return text[start:].translate(None, _WHITE_SPACE)


def _b64decode(payload: bytes) -> bytes:
    try:
        return base64.b64decode(payload, validate=True)
    except binascii.Error:
        raise UnreadablePictureError("not base64") from None


def _open(content: bytes, max_work: int | None) -> Image.Image:
    """Inspect and decode an image.

    Raises:
        UnreadablePictureError: the format is not accepted, or the file is damaged.
        PictureTooLargeError: the image exceeds the limits of size.
        LaboriousPictureError: the image exceeds `max_work`.
    """
    outline = inspect(content)
    if max_work is not None and outline.work > max_work:
        raise LaboriousPictureError
    with _translate_pillow_errors():
        image = Image.open(io.BytesIO(content), formats=[outline.format])
        check_size(Outline(outline.format, *image.size))
        image.load()
        return image


@contextlib.contextmanager
def _translate_pillow_errors() -> Iterator[None]:
    """Translate errors of Pillow to one class.

    Raises:
        UnreadablePictureError: Pillow raised an error.
    """
    try:
        yield
    except (UnreadablePictureError, PictureTooLargeError, MemoryError):
        raise
    except Exception:
        # Errors of damaged files have no common class; struct.error and TypeError occur too.
        raise UnreadablePictureError("the image is damaged or truncated") from None


def _to_grey(image: Image.Image) -> Grey:
    """Return the image as float32 `[h, w]`, 0 to 255.

    Raises:
        ValueError: a pixel is NaN or infinite.
    """
    if image.mode in _SIXTEEN_BIT:
        return np.asarray(image).astype(np.float32) / 257.0
    if image.mode in {"I", "F"}:
        values = np.asarray(image).astype(np.float32)
        if not np.isfinite(values).all():
            raise ValueError("not finite")
        top = float(values.max(initial=0.0))
        # Pillow reads some 16-bit images as 32-bit integers, and float maps may end at 1.
        scale = 255.0 if top <= 1.0 and image.mode == "F" else 1.0 if top <= 255.0 else 1 / 257.0
        return np.clip(values * scale, 0.0, 255.0)
    return np.asarray(_opaque(image).convert("L")).astype(np.float32)


def _to_colour(image: Image.Image) -> Image.Image:
    """Return the image as RGB, with its EXIF orientation applied."""
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode in _SIXTEEN_BIT or image.mode in {"I", "F"}:
        return Image.fromarray(_to_grey(image).round().astype(np.uint8)).convert("RGB")
    return _opaque(image).convert("RGB")


def _opaque(image: Image.Image) -> Image.Image:
    """Return the image with transparent pixels composited over black."""
    if image.mode not in _TRANSPARENT and "transparency" not in image.info:
        return image
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    black = Image.new("RGB", rgba.size)
    black.paste(rgba, mask=rgba)
    return black


def _output_size(
    own_width: int, own_height: int, width: int | None, height: int | None
) -> tuple[int, int]:
    """Return width and height in pixels; derive those that are None from the photograph."""
    if width is not None and height is not None:
        return width, height
    if width is not None:
        scale = width / own_width
    elif height is not None:
        scale = height / own_height
    else:
        scale = max(min(1.0, MAX_SIDE / max(own_width, own_height)), MIN_SIDE / own_width)
        scale = max(scale, MIN_SIDE / own_height)

    def clamp(side: float) -> int:
        return int(min(max(round(side / SIDE_STEP) * SIDE_STEP, MIN_SIDE), MAX_SIDE))

    return width or clamp(own_width * scale), height or clamp(own_height * scale)


def _resize(grey: Grey, width: int, height: int) -> bytes:
    if grey.shape != (height, width):
        resized = Image.fromarray(grey).resize((width, height), Image.Resampling.BICUBIC)
        grey = np.asarray(resized)
    return grey.clip(0, 255).round().astype(np.uint8).tobytes()
