"""Generated images and depth maps, as files and as PIL images."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from experimance.errors import InvalidInput
from experimance.image_metadata import read_parameters

FORMATS = ("PNG", "JPEG", "WEBP")
"""Accepted formats; Pillow decodes some others with external programs."""

_SUFFIXES = {
    "PNG": {".png"},
    "JPEG": {".jpg", ".jpeg"},
    "WEBP": {".webp"},
}


@dataclass(frozen=True)
class DepthMap:
    """Estimated depth of a photograph, near = bright.

    Attributes:
        data: Grey PNG file.
        estimator: Name of the depth estimator.
        request_id: Id of the request in the service's log.
        seconds: Time the service took, in seconds.
        warnings: Warnings of the service about the photograph.
    """

    data: bytes = field(repr=False)
    estimator: str
    request_id: str
    seconds: float
    warnings: tuple[str, ...] = ()

    @cached_property
    def image(self) -> Image.Image:
        """Decoded depth map, mode L."""
        return decode_image(self.data)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the PNG file and return its path.

        Raises:
            InvalidInput: The name has the suffix of another format.
            OSError: The file cannot be written.
        """
        return write_atomic(path, self.data)


@dataclass(frozen=True)
class Picture:
    """Result of a generation request: one image or, with `num_images`, up to four.

    Attributes:
        files: Image files as the service encoded them, with embedded parameters.
        seed: Seed of the first image; the following images have seed + 1, and so on.
        model: Variant that generated the image.
        request_id: Id of the request in the service's log.
        seconds: Time from arrival to response on the service, in seconds.
        metadata: Request parameters with defaults filled in, timings and warnings.
        depth_file: With `return_depth`, the depth map in use, a grey PNG.
    """

    files: tuple[bytes, ...] = field(repr=False)
    seed: int
    model: str
    request_id: str
    seconds: float
    metadata: Mapping[str, Any] = field(repr=False)
    depth_file: bytes | None = field(default=None, repr=False)

    @property
    def data(self) -> bytes:
        """File of the first image."""
        return self.files[0]

    @property
    def image(self) -> Image.Image:
        """First image, decoded."""
        return self.images[0]

    @cached_property
    def images(self) -> tuple[Image.Image, ...]:
        """All images, decoded."""
        return tuple(decode_image(file) for file in self.files)

    @cached_property
    def depth(self) -> Image.Image | None:
        """With `return_depth`, the depth map in use, mode L."""
        return None if self.depth_file is None else decode_image(self.depth_file)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings of the service about the request, mostly about its depth map."""
        return tuple(self.metadata.get("warnings", ()))

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters embedded in the first image; empty without any."""
        return read_parameters(self.image) or {}

    def save(self, path: str | os.PathLike[str], index: int = 0) -> Path:
        """Write the unchanged file of an image and return its path.

        Raises:
            InvalidInput: The name has the suffix of another format.
            OSError: The file cannot be written.
        """
        return write_atomic(path, self.files[index])


def decode_image(data: bytes) -> Image.Image:
    """Decode an image file of an accepted format.

    Raises:
        OSError: The data is not such an image, or is damaged.
    """
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    image.load()
    return image


def file_suffix(data: bytes) -> str:
    """Return the file name suffix of an image file: `.png`, `.jpg` or `.webp`."""
    kind = Image.open(io.BytesIO(data), formats=FORMATS).format or "PNG"
    return min(_SUFFIXES.get(kind, {f".{kind.lower()}"}), key=len)


def write_atomic(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write an image file atomically: readers see the old file or the new one, never a part.

    Raises:
        InvalidInput: The name has the suffix of another format.
        OSError: The file cannot be written.
    """
    target = Path(path)
    kind = Image.open(io.BytesIO(data), formats=FORMATS).format or ""
    others = {suffix for name, suffixes in _SUFFIXES.items() if name != kind for suffix in suffixes}
    if target.suffix.lower() in others:
        raise InvalidInput(
            f"{target.name}: the image is a {kind}; save it as *{file_suffix(data)}, or request "
            "another output_format"
        )
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(data)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target
