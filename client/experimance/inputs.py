"""Depth maps and photographs of every kind as base64 of a file that the service reads."""

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

Arrays are uint8, uint16, or floats from 0 to 1; shape [h, w] is grey, [h, w, 3] RGB.
"""

_PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}
_TIFF_MODES = {"I", "F", "I;16B"}


def encoded(picture: PictureInput, name: str) -> str:
    """A picture as base64 of a file; files are sent as they are.

    Args:
        picture: what the caller has.
        name: of the argument, for messages.

    Raises:
        InvalidInput: it is no picture; the message says what is accepted.
        OSError: the file cannot be read.
    """
    return base64.b64encode(file_of(picture, name)).decode("ascii")


def file_of(picture: PictureInput, name: str) -> bytes:
    """A picture as the bytes of a file; see `encoded`."""
    if isinstance(picture, bytes | bytearray | memoryview):
        content = bytes(picture)
    elif isinstance(picture, str | os.PathLike):
        content = Path(picture).read_bytes()
    elif isinstance(picture, Image.Image):
        content = _image_file(picture)
    elif hasattr(picture, "__array_interface__"):
        content = _image_file(_image_of(picture, name))
    else:
        raise InvalidInput(
            f"{name}: a {type(picture).__name__} is neither a path, bytes, a PIL image nor a "
            "numpy array"
        )
    if not content:
        raise InvalidInput(f"{name}: empty; a PNG, JPEG, WebP or TIFF is accepted")
    return content


def _image_file(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    if image.mode in _TIFF_MODES:
        image.save(buffer, "TIFF")
    else:
        kept = image if image.mode in _PNG_MODES else image.convert("RGB")
        kept.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _image_of(array: NDArray[Any], name: str) -> Image.Image:
    """uint8 and uint16 as they are; floats as 16 bit grey or 8 bit colour."""
    accepted = "uint8, uint16 or floats from 0 to 1, of shape [h, w] or [h, w, 3]"
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    colour = array.ndim == 3
    if array.size == 0 or array.ndim not in {2, 3} or (colour and array.shape[2] != 3):
        raise InvalidInput(f"{name}: an array of shape {list(array.shape)}; accepted: {accepted}")
    if array.dtype.kind == "f":
        # A comparison with a value that is no number fails too.
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
