"""Metadata in image files of the service: request parameters and embedded input images."""

from __future__ import annotations

import json
from typing import Any

from PIL import ExifTags, Image

DEPTH_CHUNK, INIT_IMAGE_CHUNK = b"dpTh", b"stRt"
"""Private PNG chunks of `embed_inputs`: the depth map and the init image."""

_COMMENT_PREFIX = b"ASCII\0\0\0"


def read_parameters(image: Image.Image) -> dict[str, Any] | None:
    """Return the request parameters in an image file, or None without any.

    PNGs carry them as the text `parameters`, JPEG and WebP as the EXIF UserComment.
    """
    image.load()
    text = image.info.get("parameters")
    if text is None:
        comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
        if isinstance(comment, bytes) and comment.startswith(_COMMENT_PREFIX):
            text = comment.removeprefix(_COMMENT_PREFIX).decode("ascii", "replace")
    try:
        parameters = json.loads(text or "null")
    except (TypeError, ValueError, RecursionError):
        # Other programs use the same text key for other formats.
        return None
    return parameters if isinstance(parameters, dict) and "prompt" in parameters else None


def embedded_inputs(image: Image.Image) -> dict[bytes, bytes]:
    """Return the embedded input PNG files by chunk name, DEPTH_CHUNK or INIT_IMAGE_CHUNK."""
    image.load()
    chunks = getattr(image, "private_chunks", ())
    return {chunk[0]: chunk[1] for chunk in chunks if chunk[0] in {DEPTH_CHUNK, INIT_IMAGE_CHUNK}}
