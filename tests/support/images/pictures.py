"""Small pictures for requests, and pictures out of answers."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image


def encoded(picture: Image.Image, file_format: str = "PNG", **options: Any) -> str:
    """A picture as base64 of a file."""
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def hill(width: int = 64, height: int = 48) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A smooth hill, uint8 [h, w]."""
    y, x = np.mgrid[0:height, 0:width]
    squared = ((x - width / 2) / width) ** 2 + ((y - height / 2) / height) ** 2
    return (255 * np.exp(-8 * squared)).astype(np.uint8)


def opened(image_b64: str) -> Image.Image:
    """The picture of an answer."""
    return Image.open(io.BytesIO(base64.b64decode(image_b64, validate=True)))
