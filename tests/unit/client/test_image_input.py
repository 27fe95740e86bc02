"""Pictures of every kind into files that the service reads, and out of its answers."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from api.images.decoding import decode_depth, decode_image
from experimance import Picture
from experimance.errors import InvalidInput
from experimance.image_input import to_base64, to_image_bytes
from experimance.image_metadata import embedded_inputs, read_parameters
from runners.engine.image_encoding import DEPTH_CHUNK, encode_picture
from tests.support.client_service import picture_file
from tests.support.images.pictures import hill

HILL = hill(64, 48)
RAMP = np.linspace(0, 1, 64 * 48, dtype=np.float32).reshape(48, 64)


def decode_sent_depth(picture: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """As the service reads what the client sends."""
    pixels = decode_depth(to_base64(picture, "depth").encode(), 64, 48).pixels
    return np.frombuffer(pixels, np.uint8).reshape(48, 64)


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (HILL, HILL),
        (HILL[:, :, None], HILL),
        (Image.fromarray(HILL), HILL),
        (Image.fromarray(HILL).convert("RGBA"), HILL),
        (Image.fromarray(HILL).convert("CMYK").convert("L"), HILL),
        (HILL.astype(np.uint16) * 257, HILL),
        (Image.fromarray(HILL.astype(np.uint16) * 257), HILL),
        (Image.fromarray(HILL.astype(np.int32) * 257), HILL),
        (RAMP, (RAMP * 255).round()),
        (RAMP.astype(np.float16), (RAMP.astype(np.float16).astype(float) * 255).round()),
        (Image.fromarray(RAMP), (RAMP * 255).round()),
        (np.asfortranarray(HILL), HILL),
        (HILL[::-1], HILL[::-1]),
    ],
    ids=["uint8", "one channel", "L", "RGBA", "from CMYK", "uint16", "I;16", "I", "float32",
         "float16", "F", "columns first", "a view"],
)  # fmt: skip
def test_depth_values_survive_the_upload(picture: Any, expected: Any) -> None:
    assert np.abs(decode_sent_depth(picture).astype(int) - expected.astype(int)).max() <= 1


def test_floats_keep_sixteen_bits() -> None:
    steps = (np.arange(48 * 64).reshape(48, 64) / 65535).astype(np.float32)
    sent = np.asarray(Image.open(io.BytesIO(to_image_bytes(steps, "depth"))))
    assert (sent == np.arange(48 * 64).reshape(48, 64)).all()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float64])
def test_colours_survive_the_upload(kind: Any) -> None:
    colour = np.random.default_rng(1).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    scale = {np.uint8: 1, np.uint16: 257, np.float64: 1 / 255}[kind]
    sent = to_base64((colour * float(scale)).astype(kind), "image").encode()
    pixels = decode_image(sent, 64, 48).pixels
    assert np.frombuffer(pixels, np.uint8).reshape(48, 64, 3).tolist() == colour.tolist()


def test_files_are_sent_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(picture_file("green", "JPEG"))
    for given in (path, str(path), path.read_bytes(), bytearray(path.read_bytes())):
        assert base64.b64decode(to_base64(given, "depth")) == path.read_bytes()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (b"", "empty"),
        (5, "int"),
        (np.zeros((2, 2), bool), "bool"),
        (np.zeros((2, 2), np.int32), "int32"),
        (np.zeros((2, 2, 4), np.uint8), "2, 2, 4"),
        (np.zeros(4, np.uint8), "shape"),
        (np.zeros((0, 2), np.uint8), "shape"),
        (np.full((2, 2), 1.5), "from 0 to 1"),
        (np.full((2, 2), np.nan), "from 0 to 1"),
        (np.full((2, 2), -0.1), "from 0 to 1"),
    ],
)
def test_invalid_image_error_names_the_argument(given: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as raised:
        to_base64(given, "depth")
    assert str(raised.value).startswith("depth: ")


@pytest.mark.parametrize("file_format", ["png", "jpeg", "webp"])
def test_parameters_are_read_from_service_images(file_format: str) -> None:
    told = {"prompt": "Hügel", "seed": 3}
    pixels = np.zeros((16, 16, 3), np.uint8)
    inputs = {DEPTH_CHUNK: b"depth"} if file_format == "png" else None
    image = Image.open(io.BytesIO(encode_picture(pixels, file_format, 90, told, inputs)))
    assert read_parameters(image) == told
    assert embedded_inputs(image) == (inputs or {})


@pytest.mark.parametrize("text", ["{", "[1]", '{"steps": 1}', "null", "a horse on the moon"])
def test_parameters_of_other_programs_are_ignored(text: str) -> None:
    image = Image.new("L", (4, 4))
    image.info["parameters"] = text
    assert read_parameters(image) is None


def _picture(*files: bytes) -> Picture:
    return Picture(files, seed=1, model="m", request_id="r", seconds=0.1, metadata={})


def test_image_is_saved_byte_for_byte(tmp_path: Path) -> None:
    picture = _picture(picture_file("red"), picture_file("blue"))
    path = picture.save(tmp_path / "b.png", 1)
    assert path.read_bytes() == picture_file("blue")
    assert [each.name for each in tmp_path.iterdir()] == ["b.png"]
    assert picture.save(tmp_path / "b.png").read_bytes() == picture_file("red")


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.webp"])
def test_a_name_of_another_format(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="is a PNG"):
        _picture(picture_file()).save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_failed_save_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(OSError, match="taken"):
        _picture(picture_file()).save(tmp_path / "taken.png")
    assert [each.name for each in tmp_path.iterdir()] == ["taken.png"]
