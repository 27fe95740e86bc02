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
from PIL import Image, ImageOps, UnidentifiedImageError

from api.depth import Grey, adjusted, suspicions
from api.errors import ApiError, InvalidDepthMap, InvalidImage, InvalidRequest, TooLarge

MAX_PIXELS = 64_000_000
MIN_SIDE, MAX_SIDE, SIDE_STEP = 256, 2048, 8
"""What an output's width and height may be."""
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF")
_ACCEPTED = "a base64 or data URL of a PNG, JPEG, WebP or TIFF is accepted"
_DATA_URL = re.compile(r"data:[\w.+/-]*(;[\w=.+-]+)*;base64,", re.ASCII)
_SIXTEEN_BIT = {"I;16", "I;16L", "I;16B", "I;16N"}
_TRANSPARENT = {"RGBA", "LA", "PA", "P"}

# Pillow's own guard is a warning at a smaller size and an exception at a larger one; the limit
# is checked here, from the header, before anything is decoded.
Image.MAX_IMAGE_PIXELS = None


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
    text: str, width: int, height: int, *, invert: bool = False, normalize: bool = False
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

    Raises:
        InvalidDepthMap: not base64, not a picture of an accepted format, damaged.
        TooLarge: more than 64 megapixels.
    """
    field = "depth_map_b64"
    content = _decode_base64(text, field, InvalidDepthMap)
    picture = _open(content, field, InvalidDepthMap)
    with _damage_told(field, InvalidDepthMap):
        grey = _to_grey(picture)
    # What a switch mends is no matter for a warning.
    changed = adjusted(grey, invert, normalize)
    odd = suspicions(changed, picture.mode in _SIXTEEN_BIT)
    pixels = _resized(changed, width, height)
    return DepthMap(pixels, odd, hashlib.sha256(content).hexdigest())


def decode_image(text: str, width: int | None, height: int | None) -> Photograph:
    """Decode a photograph and resize it to the output, like the depth map beside it.

    Transparency is laid over black; the camera's orientation is respected.

    Args:
        text: base64, with or without a `data:` prefix; white space is ignored.
        width: of the result, in pixels; without it what keeps the photograph's proportions.
        height: of the result, likewise; without both its own size, within the output's bounds.

    Raises:
        InvalidImage: not base64, not a picture of an accepted format, damaged.
        TooLarge: more than 64 megapixels.
    """
    field = "image_b64"
    content = _decode_base64(text, field, InvalidImage)
    picture = _open(content, field, InvalidImage)
    with _damage_told(field, InvalidImage):
        colour = _to_colour(picture)
    size = _output_size(*colour.size, width, height)
    if colour.size != size:
        colour = colour.resize(size, Image.Resampling.LANCZOS)
    return Photograph(colour.tobytes(), hashlib.sha256(content).hexdigest(), *size)


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


def _decode_base64(text: str, field: str, invalid: type[InvalidRequest]) -> bytes:
    prefix = _DATA_URL.match(text.lstrip()[:128])
    payload = text.lstrip()[prefix.end() :] if prefix else text
    payload = "".join(payload.split())
    if not payload:
        raise invalid.field(field, f"empty; {_ACCEPTED}")
    try:
        return base64.b64decode(payload + "=" * (-len(payload) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise invalid.field(field, f"not base64; {_ACCEPTED}") from None


def _open(content: bytes, field: str, invalid: type[InvalidRequest]) -> Image.Image:
    """The decoded picture; its size is looked at before."""
    with _damage_told(field, invalid):
        picture = Image.open(io.BytesIO(content), formats=FORMATS)
        if picture.width * picture.height > MAX_PIXELS:
            raise TooLarge(f"{field}: {picture.width}x{picture.height} exceeds 64 megapixels")
        picture.load()
        return picture


@contextlib.contextmanager
def _damage_told(field: str, invalid: type[InvalidRequest]) -> Iterator[None]:
    """Pillow's many errors as one of the contract's."""
    try:
        yield
    except ApiError:
        raise
    except UnidentifiedImageError:
        raise invalid.field(field, f"not a picture; {_ACCEPTED}") from None
    except Exception:
        # What damaged files raise has no common class: struct.error and TypeError were seen too.
        raise invalid.field(field, f"the picture is damaged or truncated; {_ACCEPTED}") from None


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
    upright = ImageOps.exif_transpose(picture)
    if upright.mode in _SIXTEEN_BIT or upright.mode in {"I", "F"}:
        return Image.fromarray(_to_grey(upright).round().astype(np.uint8)).convert("RGB")
    return _opaque(upright).convert("RGB")


def _opaque(picture: Image.Image) -> Image.Image:
    """The picture over black where it is transparent."""
    if picture.mode not in _TRANSPARENT and "transparency" not in picture.info:
        return picture
    rgba = picture.convert("RGBA")
    black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, rgba)


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
