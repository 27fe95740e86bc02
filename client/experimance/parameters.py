"""What a picture file says about itself: parameters, and the pictures that it was painted from."""

from __future__ import annotations

import json
from typing import Any

from PIL import ExifTags, Image

DEPTH_CHUNK, START_CHUNK = b"dpTh", b"stRt"
"""Private PNG chunks of `embed_inputs`: the depth map, and what image-to-image started from."""

_COMMENT_PREFIX = b"ASCII\0\0\0"


def read_parameters(image: Image.Image) -> dict[str, Any] | None:
    """The parameters of a picture: a PNG's text, else the EXIF UserComment; None without any."""
    image.load()
    text = image.info.get("parameters")
    if text is None:
        comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
        if isinstance(comment, bytes) and comment.startswith(_COMMENT_PREFIX):
            text = comment.removeprefix(_COMMENT_PREFIX).decode("ascii", "replace")
    try:
        parameters = json.loads(text or "null")
    except (TypeError, ValueError, RecursionError):
        # Other programs write a text of that name too.
        return None
    return parameters if isinstance(parameters, dict) and "prompt" in parameters else None


def embedded_inputs(image: Image.Image) -> dict[bytes, bytes]:
    """The PNG files that a picture was painted from, by DEPTH_CHUNK and START_CHUNK."""
    image.load()
    chunks = getattr(image, "private_chunks", ())
    return {chunk[0]: chunk[1] for chunk in chunks if chunk[0] in {DEPTH_CHUNK, START_CHUNK}}
