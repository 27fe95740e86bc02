"""Bit-exact reproduction of an image from its own file."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.support.images.pictures import encoded, hill

_ABOUT_THE_STACK = {"software", "digests", "depth_sha256", "image_sha256"}
_DONE_TO_DEPTH = {"mock_depth", "depth_estimator", "invert_depth", "normalize_depth"}
DEPTH = encoded(Image.fromarray(hill(300, 200).astype(np.uint16) * 100))
PHOTOGRAPH = encoded(Image.fromarray(np.dstack([hill(90, 80)] * 3)), "JPEG")


def paint(client: httpx.Client, fields: dict[str, Any]) -> list[bytes]:
    body = {"prompt": "aerial photography", "output_format": "png", "steps": 3, **fields}
    answer = client.post("/generate", json=body)
    assert answer.status_code == 200, answer.text
    return [base64.b64decode(text) for text in answer.json()["images_b64"]]


def again(png: bytes) -> dict[str, Any]:
    """The request that a picture's file holds."""
    picture: Any = Image.open(io.BytesIO(png))
    picture.load()
    written = json.loads(picture.info["parameters"])
    fields = {k: v for k, v in written.items() if k not in _ABOUT_THE_STACK | _DONE_TO_DEPTH}
    chunks = {chunk[0]: base64.b64encode(chunk[1]).decode() for chunk in picture.private_chunks}
    for name, field in ((b"dpTh", "depth_map_b64"), (b"stRt", "image_b64")):
        if name in chunks:
            fields[field] = chunks[name]
    return fields


@pytest.mark.parametrize(
    "fields",
    [
        {"depth_map_b64": DEPTH, "invert_depth": True, "normalize_depth": True, "era": "ruins"},
        {"mock_depth": True, "model": "base", "num_images": 2, "scheduler": "euler_a", "cfg": 3.0},
        {"image_b64": PHOTOGRAPH, "strength": 0.7, "model": "hyper", "width": 264},
        {"image_b64": PHOTOGRAPH, "strength": 0.5, "depth_map_b64": DEPTH, "decoder": "tiny"},
    ],
)
def test_image_is_reproduced_from_its_file_alone(
    client: httpx.Client, fields: dict[str, Any]
) -> None:
    for png in paint(client, {**fields, "embed_inputs": True}):
        (repeated,) = paint(client, again(png))
        first, second = (np.asarray(Image.open(io.BytesIO(each))) for each in (png, repeated))
        # Beside another of its request a picture is rounded differently here and there.
        allowed = 1 if fields.get("num_images") else 0
        assert np.abs(first.astype(int) - second).max() <= allowed


def test_inputs_are_identified_by_digests(client: httpx.Client) -> None:
    fields = {"depth_map_b64": DEPTH, "image_b64": PHOTOGRAPH, "strength": 0.4}
    (png,) = paint(client, fields)
    picture: Any = Image.open(io.BytesIO(png))
    picture.load()
    assert not getattr(picture, "private_chunks", None)
    written = json.loads(picture.info["parameters"])
    for name, sent in (("depth_sha256", DEPTH), ("image_sha256", PHOTOGRAPH)):
        assert written[name] == hashlib.sha256(base64.b64decode(sent)).hexdigest()
    known = client.get("/models").json()["details"]
    assert written["digests"]["lightning"] == known["lightning"]["digest"]


@pytest.mark.parametrize("chosen", [{}, {"output_format": "webp"}, {"use_jpeg": True}])
def test_only_png_can_embed_inputs(client: httpx.Client, chosen: dict[str, Any]) -> None:
    body = {"prompt": "hills", "mock_depth": True, "embed_inputs": True, **chosen}
    answer = client.post("/generate", json=body)
    assert answer.status_code == 400
    assert answer.json()["detail"][0]["field"] == "embed_inputs"
    assert "needs a PNG" in answer.json()["error_message"]
