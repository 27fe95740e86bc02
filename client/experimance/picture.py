"""Finished pictures and depth maps, as files and as PIL images."""

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
from experimance.parameters import read_parameters

FORMATS = ("PNG", "JPEG", "WEBP")
"""What the service sends. Pillow reads many more formats, some of them by other programs."""

_SUFFIXES = {
    "PNG": {".png"},
    "JPEG": {".jpg", ".jpeg"},
    "WEBP": {".webp"},
}


@dataclass(frozen=True)
class DepthMap:
    """The depth of a photograph, near = bright.

    `data` is a grey PNG; `estimator` the name of what estimated it.
    """

    data: bytes = field(repr=False)
    estimator: str
    request_id: str
    seconds: float
    warnings: tuple[str, ...] = ()

    @cached_property
    def image(self) -> Image.Image:
        """Decoded, mode L."""
        return opened(self.data)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the PNG file; see `write_picture`."""
        return write_picture(path, self.data)


@dataclass(frozen=True)
class Picture:
    """What a request gave: one picture or, with num_images, up to four.

    Attributes:
        files: every picture, encoded as the service sent it, parameters inside.
        seed: of the first picture; the next ones have seed + 1, …
        model: the variant that painted.
        request_id: under which the service knows it.
        seconds: from arrival to answer, the service's measure.
        metadata: how it was painted, defaults filled in.
        depth_file: with return_depth, the depth that was used: a grey PNG.
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
        """The first picture's file."""
        return self.files[0]

    @property
    def image(self) -> Image.Image:
        """The first picture."""
        return self.images[0]

    @cached_property
    def images(self) -> tuple[Image.Image, ...]:
        """All pictures, decoded."""
        return tuple(opened(file) for file in self.files)

    @cached_property
    def depth(self) -> Image.Image | None:
        """With return_depth, the depth that was used, mode L."""
        return None if self.depth_file is None else opened(self.depth_file)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the service found odd about the request."""
        return tuple(self.metadata.get("warnings", ()))

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters that the first picture carries; empty without any."""
        return read_parameters(self.image) or {}

    def save(self, path: str | os.PathLike[str], index: int = 0) -> Path:
        """Write a picture's file as it came, parameters inside; see `write_picture`."""
        return write_picture(path, self.files[index])


def opened(data: bytes) -> Image.Image:
    """A picture file, decoded."""
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    image.load()
    return image


def suffix_of(data: bytes) -> str:
    """How the name of a picture file should end: `.png`, `.jpg` or `.webp`."""
    kind = Image.open(io.BytesIO(data), formats=FORMATS).format or "PNG"
    return min(_SUFFIXES.get(kind, {f".{kind.lower()}"}), key=len)


def write_picture(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write a picture file; who reads it meanwhile sees the old one or the new one.

    Raises:
        InvalidInput: the name ends as those of another format do.
        OSError: it cannot be written.
    """
    target = Path(path)
    kind = Image.open(io.BytesIO(data), formats=FORMATS).format or ""
    others = {suffix for name, suffixes in _SUFFIXES.items() if name != kind for suffix in suffixes}
    if target.suffix.lower() in others:
        raise InvalidInput(
            f"{target.name}: the picture is a {kind}; save it as *{suffix_of(data)}, or ask for "
            "another output_format"
        )
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        beside.write_bytes(data)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
    return target
