"""Conversion of depth maps and photographs to image files that the service decodes."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from PIL import Image

from experimance.errors import InvalidInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

PictureInput: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | NDArray[Any]"
"""A path, the bytes of a PNG, JPEG, WebP or TIFF file, a PIL image, or a numpy array.

Arrays have dtype uint8, uint16 or float in [0, 1], and shape [h, w] or [h, w, 1] for grey or
[h, w, 3] for RGB.
"""

_PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}
_TIFF_MODES = {"I", "F", "I;16B"}


def to_base64(picture: PictureInput, name: str) -> str:
    """Return an image file as base64; see `to_image_bytes`.

    Args:
        picture: Image in any accepted form.
        name: Name of the argument for error messages.

    Raises:
        InvalidInput: `picture` is not an image; the message lists what is accepted.
        OSError: The file cannot be read.
    """
    return base64.b64encode(to_image_bytes(picture, name)).decode("ascii")


def to_image_bytes(picture: PictureInput, name: str) -> bytes:
    """Return the content of an image file; files and bytes pass unchanged.

    Args:
        picture: Image in any accepted form.
        name: Name of the argument for error messages.

    Raises:
        InvalidInput: `picture` is not an image; the message lists what is accepted.
        OSError: The file cannot be read.
    """
    if isinstance(picture, bytes | bytearray | memoryview):
        content = bytes(picture)
    elif isinstance(picture, str | os.PathLike):
        content = Path(picture).read_bytes()
    elif isinstance(picture, Image.Image):
        content = _encode_image(picture)
    elif hasattr(picture, "__array_interface__"):
        content = _encode_image(_image_from_array(picture, name))
    else:
        raise InvalidInput(
            f"{name}: a {type(picture).__name__} is neither a path, bytes, a PIL image nor a "
            "numpy array"
        )
    if not content:
        raise InvalidInput(f"{name}: empty; a PNG, JPEG, WebP or TIFF is accepted")
    return content


def _encode_image(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    if image.mode in _TIFF_MODES:
        image.save(buffer, "TIFF")
    else:
        converted = image if image.mode in _PNG_MODES else image.convert("RGB")
        converted.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _image_from_array(array: NDArray[Any], name: str) -> Image.Image:
    """Convert an array to a PIL image.

    uint8 passes unchanged, as does grey uint16. Floats become 16-bit grey or 8-bit RGB. RGB uint16
    becomes 8-bit RGB.
    """
    accepted = "uint8, uint16 or floats from 0 to 1, of shape [h, w] or [h, w, 3]"
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    colour = array.ndim == 3
    if array.size == 0 or array.ndim not in {2, 3} or (colour and array.shape[2] != 3):
        raise InvalidInput(f"{name}: an array of shape {list(array.shape)}; accepted: {accepted}")
    if array.dtype.kind == "f":
        # NaN fails both comparisons.
        if not bool(((array >= 0) & (array <= 1)).all()):
            raise InvalidInput(
                f"{name}: floats from {array.min():g} to {array.max():g}; they must be from 0 to 1"
            )
        top, kind = (255, "uint8") if colour else (65535, "uint16")
        array = (array.astype("float64") * top).round().astype(kind)
    if array.dtype.name == "uint16" and colour:
        array = (array // 257).astype("uint8")
    if array.dtype.name not in {"uint8", "uint16"}:
        raise InvalidInput(f"{name}: an array of {array.dtype.name}; accepted: {accepted}")
    return Image.fromarray(array)
