"""Depth maps and init images of requests: image files and procedural terrain."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)  # fmt: skip

from experimance.load.cli import join_names

IMAGE_FORMS = '{ files = ["a.png"] }, { folder = "maps" } or { terrain = 8, size = [512, 512] }'
_MAX_IMAGES = 256
"""Maximum number of images per scenario; all are held in memory."""
_MAX_BYTES = 24 * 2**20
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
_TERRAIN_STREAM = 2
"""Separates the random numbers of terrain from those of arrivals and request contents."""
_ROUGHNESS = 2.4
"""Exponent of the amplitude's decay with frequency: sand has no sharp peaks."""


def accept(accepted: str) -> WrapValidator:
    """Return a validator that replaces pydantic's message with the accepted values."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise ValueError(f"{value!r} is not accepted; use {accepted}") from None

    return WrapValidator(validate)


class TomlTable(BaseModel):
    """Base class of the tables in a scenario file; unknown keys are errors."""

    model_config = ConfigDict(frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise ValueError(f"{value!r} is not accepted; use a table")
        unknown = sorted(set(value) - set(cls.model_fields))
        if unknown:
            accepted = join_names(cls.model_fields)
            raise ValueError(f"does not know {join_names(unknown)}; accepted: {accepted}")
        return value


class ImageFiles(TomlTable):
    """Listed image files, relative to the scenario file."""

    files: Annotated[tuple[str, ...], Field(min_length=1), accept("a list of file names")]

    def load(self, folder: Path, seed: int) -> tuple[str, ...]:
        """Return each image as base64."""
        return _encode_files([folder / name for name in self.files])


class ImageFolder(TomlTable):
    """All image files of a folder."""

    folder: Annotated[str, accept("the name of a folder")]

    def load(self, folder: Path, seed: int) -> tuple[str, ...]:
        """Return each image as base64."""
        path = folder / self.folder
        if not path.is_dir():
            raise ValueError(f"{path} is not a folder")
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES)
        if not found:
            raise ValueError(f"the folder {path} has no images ({join_names(_SUFFIXES)})")
        return _encode_files(found)


_Side = Annotated[StrictInt, Field(ge=16, le=4096)]


class Terrain(TomlTable):
    """Procedural depth maps; `size` is (width, height) in pixels."""

    terrain: Annotated[
        StrictInt, Field(ge=1, le=_MAX_IMAGES), accept(f"a whole number from 1 to {_MAX_IMAGES}")
    ]
    size: Annotated[
        tuple[_Side, _Side],
        BeforeValidator(lambda size: size if isinstance(size, list) else [size, size]),
        accept("512 or [width, height], whole numbers from 16 to 4096"),
    ] = (256, 256)

    def load(self, folder: Path, seed: int) -> tuple[str, ...]:
        """Return each depth map as base64 of a PNG file."""
        texts = []
        for index in range(self.terrain):
            buffer = io.BytesIO()
            Image.fromarray(generate_terrain(seed, index, self.size)).save(buffer, "PNG")
            texts.append(base64.b64encode(buffer.getvalue()).decode("ascii"))
        return tuple(texts)


ImageSource = ImageFiles | ImageFolder | Terrain


def parse_image_source(spec: Any, forms: str = IMAGE_FORMS) -> ImageSource:
    """Return the image source that a scenario file states.

    Raises:
        ValueError: The value has none of the accepted `forms`.
    """
    models: dict[str, type[ImageSource]] = {
        "files": ImageFiles, "folder": ImageFolder, "terrain": Terrain,
    }  # fmt: skip
    for key, model in models.items():
        if isinstance(spec, Mapping) and key in spec:
            return model.model_validate(spec)
    raise ValueError(f"{spec!r} is not accepted; use {forms}")


def generate_terrain(seed: int, index: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a depth map of smooth hills, as a camera above a sand table records them.

    The result is deterministic: uint8 (height, width) in 0..255, near = bright.

    Args:
        seed: Seed of the run.
        index: Number of the landscape.
        size: (width, height) in pixels.
    """
    width, height = size
    rng = np.random.default_rng((_TERRAIN_STREAM, seed, index))
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    frequency = np.hypot(y, x)
    frequency[0, 0] = np.inf
    noise = rng.normal(size=(*frequency.shape, 2)) @ np.array([1, 1j])
    field = np.fft.irfft2(noise / frequency**_ROUGHNESS, s=(height, width))
    field = (field - field.min()) / (field.max() - field.min())
    return np.rint(field * 255).astype(np.uint8)


def _encode_files(paths: Sequence[Path]) -> tuple[str, ...]:
    if len(paths) > _MAX_IMAGES:
        raise ValueError(f"{len(paths)} images are too many; accepted: up to {_MAX_IMAGES}")
    texts = []
    for path in paths:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from None
        if len(content) > _MAX_BYTES:
            raise ValueError(f"{path} is too large; accepted: up to 24 MiB")
        texts.append(base64.b64encode(content).decode("ascii"))
    return tuple(texts)
