"""Hostile images: rejected or decoded normally; `make bench-abuse` measures what they cost."""

from __future__ import annotations

import base64
import pickle
from pathlib import Path

import httpx
import pytest
from PIL import Image

from testing.hostile_pictures import saved
from tests.support.attack_helpers import VALID, Bomb, refused
from tests.support.images.damaged_pictures import HILL, PICTURES


@pytest.mark.parametrize("name", PICTURES)
def test_hostile_images_are_rejected(client: httpx.Client, name: str) -> None:
    content, statuses = PICTURES[name]
    text = base64.b64encode(content).decode()
    for fields in ({"depth_map_b64": text}, {"image_b64": text, "strength": 0.5}):
        body = {"prompt": "x", "steps": 1, "cfg": 1, **fields}
        refused(client.post("/generate", json=body), *statuses)


def test_extra_frames_and_trailing_bytes_are_ignored(client: httpx.Client, canary: Path) -> None:
    frames = [Image.new("L", HILL.size, shade) for shade in range(60)]
    animation = saved(HILL, "WEBP", save_all=True, append_images=frames)
    polyglot = saved(HILL, "PNG") + pickle.dumps(Bomb(canary)) + b"PK\x03\x04"
    for content in (animation, polyglot):
        body = {**VALID, "mock_depth": False, "depth_map_b64": base64.b64encode(content).decode()}
        assert client.post("/generate", json=body).status_code == 200
