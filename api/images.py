"""Depth maps: from what clients send to one grey byte per pixel."""

from __future__ import annotations

import base64
import binascii
import io
import re

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from api.errors import InvalidDepthMap, TooLarge

MAX_PIXELS = 64_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF")
_FIELD = "depth_map_b64"
_ACCEPTED = "a base64 or data URL of a PNG, JPEG, WebP or TIFF is accepted"
_DATA_URL = re.compile(r"data:[\w.+/-]*(;[\w=.+-]+)*;base64,", re.ASCII)
_SIXTEEN_BIT = {"I;16", "I;16L", "I;16B", "I;16N"}

# Pillow's own guard is a warning at a smaller size and an exception at a larger one; the limit
# is checked here, from the header, before anything is decoded.
Image.MAX_IMAGE_PIXELS = None

Grey = NDArray[np.float32]


def decode_depth(text: str, width: int, height: int) -> bytes:
    """Decode a depth map and resize it to the output.

    Grey is kept, 16 bit scaled to 8; colour is converted to luminance, transparency is laid over
    black. Of an animation the first frame counts.

    Args:
        text: base64, with or without a `data:` prefix; white space is ignored.
        width: of the result, in pixels.
        height: of the result, in pixels.

    Returns:
        `height * width` bytes, row by row, near = bright.

    Raises:
        InvalidDepthMap: not base64, not a picture of an accepted format, damaged.
        TooLarge: more than 64 megapixels.
    """
    content = _decode_base64(text)
    try:
        picture = Image.open(io.BytesIO(content), formats=FORMATS)
        pixels = picture.width * picture.height
        if pixels > MAX_PIXELS:
            raise TooLarge(
                f"{_FIELD}: {picture.width}x{picture.height} exceeds 64 megapixels",
            )
        picture.load()
        grey = _to_grey(picture)
    except UnidentifiedImageError:
        raise InvalidDepthMap.field(_FIELD, f"not a picture; {_ACCEPTED}") from None
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError, Image.DecompressionBombError):
        raise InvalidDepthMap.field(
            _FIELD, f"the picture is damaged or truncated; {_ACCEPTED}"
        ) from None
    return _resize(grey, width, height)


def mock_depth(width: int, height: int) -> bytes:
    """A radial gradient of `height * width` bytes: 255 in the centre, 0 at the nearer edges."""
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    distance = np.sqrt((x * width) ** 2 + (y * height) ** 2) / min(width, height)
    return (255 * np.clip(1 - distance, 0, 1)).round().astype(np.uint8).tobytes()


def _decode_base64(text: str) -> bytes:
    prefix = _DATA_URL.match(text.lstrip()[:128])
    payload = text.lstrip()[prefix.end() :] if prefix else text
    payload = "".join(payload.split())
    if not payload:
        raise InvalidDepthMap.field(_FIELD, f"empty; {_ACCEPTED}")
    try:
        return base64.b64decode(payload + "=" * (-len(payload) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidDepthMap.field(_FIELD, f"not base64; {_ACCEPTED}") from None


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
    if picture.mode in {"RGBA", "LA", "PA", "P"} or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
        picture = Image.alpha_composite(black, rgba)
    return np.asarray(picture.convert("L")).astype(np.float32)


def _resize(grey: Grey, width: int, height: int) -> bytes:
    if grey.shape != (height, width):
        resized = Image.fromarray(grey).resize((width, height), Image.Resampling.BICUBIC)
        grey = np.asarray(resized)
    return grey.clip(0, 255).round().astype(np.uint8).tobytes()
