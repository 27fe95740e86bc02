"""Depth from a photograph, through the whole service."""

from __future__ import annotations

import base64
import io
import threading
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from models.demo.training.data.rendering import render
from models.demo.training.data.terrain import make_terrain
from tests.support.attack_helpers import refused
from tests.support.calls import wait_until_idle
from tests.support.images.damaged_pictures import PICTURES
from tests.support.images.pictures import encoded, opened

TERRAIN = make_terrain(9_100_003, (264, 320), "islands")
PHOTOGRAPH = encoded(Image.fromarray(render(TERRAIN.height, "wilderness", 5)))
QUICK: dict[str, Any] = {
    "prompt": "hills", "steps": 1, "cfg": 1, "seed": 1, "width": 320, "height": 264,
    "output_format": "png", "embed_parameters": False,
}  # fmt: skip


def estimate(client: httpx.Client, **fields: Any) -> Any:
    response = client.post("/estimate_depth", json={"image_b64": PHOTOGRAPH, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def test_the_map_of_a_photograph(client: httpx.Client) -> None:
    answer = estimate(client)
    assert set(answer) == {
        "success", "depth_map_b64", "depth_estimator", "width", "height", "seconds", "request_id",
        "warnings",
    }  # fmt: skip
    assert (answer["success"], answer["depth_estimator"]) == (True, "relief")
    assert (answer["width"], answer["height"], answer["warnings"]) == (320, 264, [])
    depth = opened(answer["depth_map_b64"])
    assert (depth.format, depth.mode, depth.size) == ("PNG", "L", (320, 264))
    grey = np.asarray(depth)
    assert (grey.min(), grey.max()) == (0, 255)
    assert np.corrcoef(grey.ravel(), TERRAIN.depth.ravel())[0, 1] > 0.8
    assert estimate(client)["depth_map_b64"] == answer["depth_map_b64"]


def test_size_switches_and_the_map_itself(client: httpx.Client) -> None:
    grey = np.asarray(opened(estimate(client, width=512, height=256)["depth_map_b64"]))
    assert grey.shape == (256, 512)
    turned = estimate(client, width=512, height=256, invert_depth=True, normalize_depth=True)
    np.testing.assert_array_equal(np.asarray(opened(turned["depth_map_b64"])), 255 - grey)
    body = {"image_b64": PHOTOGRAPH, "width": 512, "height": 256, "depth_estimator": "relief"}
    headers = {"Accept": "image/png", "X-Request-Id": "photo-1"}
    answer = client.post("/estimate_depth", json=body, headers=headers)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-depth-estimator"] == "relief"
    assert answer.headers["x-request-id"] == "photo-1"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), grey)


def test_photograph_gives_same_image_as_its_depth_map(client: httpx.Client) -> None:
    body = {**QUICK, "image_b64": PHOTOGRAPH, "return_depth": True}
    direct = client.post("/generate", json=body)
    assert direct.status_code == 200, direct.text
    answer = direct.json()
    assert answer["metadata"]["depth_estimator"] == "relief"
    depth = estimate(client)["depth_map_b64"]
    assert answer["depth_map_b64"] == depth
    by_map = client.post("/generate", json={**QUICK, "depth_map_b64": depth}).json()
    assert by_map["image_b64"] == answer["image_b64"]
    stream = client.post("/generate_stream", json=body)
    assert answer["image_b64"] in stream.text
    both = {**body, "strength": 0.5, "depth_estimator": "relief"}
    mixed = client.post("/generate", json=both).json()
    assert mixed["depth_map_b64"] == depth
    assert mixed["image_b64"] != answer["image_b64"]


@pytest.mark.parametrize(
    ("fields", "code", "named"),
    [
        ({"depth_estimator": "midas"}, "unknown_depth_estimator", "accepted: relief"),
        ({"image_b64": None}, "invalid_request", "image_b64"),
        ({"image_b64": "%%"}, "invalid_image", "image_b64: not base64"),
        ({"image_b64": "https://localhost/x.png"}, "invalid_image", "image_b64"),
        ({"width": 100}, "invalid_request", "width"),
        ({"height": 2056}, "invalid_request", "height"),
        ({"width": 257}, "invalid_request", "width"),
        ({"prompt": "x"}, "invalid_request", "prompt: unknown field"),
        ({"invert_depth": "perhaps"}, "invalid_request", "invert_depth"),
    ],
)
def test_rejected_estimate_names_the_field(
    client: httpx.Client, fields: dict[str, Any], code: str, named: str
) -> None:
    response = client.post("/estimate_depth", json={"image_b64": PHOTOGRAPH, **fields})
    refused(response, 400)
    assert response.json()["error"] == code
    assert named in response.json()["error_message"]


def test_a_photograph_is_needed(client: httpx.Client) -> None:
    refused(client.post("/estimate_depth", json={}), 400)
    named = {"prompt": "x", "image_b64": PHOTOGRAPH, "depth_estimator": "midas"}
    response = client.post("/generate", json=named)
    assert (response.status_code, response.json()["error"]) == (400, "unknown_depth_estimator")


@pytest.mark.parametrize("name", PICTURES)
def test_hostile_photographs_are_rejected(client: httpx.Client, name: str) -> None:
    content, statuses = PICTURES[name]
    body = {"image_b64": base64.b64encode(content).decode()}
    refused(client.post("/estimate_depth", json=body), *statuses)


@pytest.mark.parametrize("size", [(1, 1), (125, 4000), (4000, 125), (3, 2)])
def test_extreme_photograph_sizes_are_resized(client: httpx.Client, size: tuple[int, int]) -> None:
    answer = estimate(client, image_b64=encoded(Image.new("RGB", size, (9, 99, 200))))
    assert 256 <= answer["width"] <= 2048
    assert 256 <= answer["height"] <= 2048


def test_models_lists_depth_estimators(client: httpx.Client) -> None:
    told = client.get("/models").json()
    assert told["available_depth_estimators"] == ["relief"]
    assert told["default_depth_estimator"] == "relief"


def test_cancel_all_ends_estimates_too(client: httpx.Client) -> None:
    """While a large photograph is decoded, or estimated: whenever the order finds it."""
    noise = np.random.default_rng(0).integers(0, 2, (3500, 3500, 3), np.uint8) * 255
    body = {"image_b64": encoded(Image.fromarray(noise), compress_level=1)}
    answers: list[httpx.Response] = []
    headers = {"X-Request-Id": "photo-2"}

    def call() -> None:
        answers.append(client.post("/estimate_depth", json=body, headers=headers))

    calling = threading.Thread(target=call)
    calling.start()
    cancelled: list[str] = []
    while not cancelled and calling.is_alive():
        cancelled = client.post("/cancel", json={"request_id": "photo-2"}).json()["cancelled"]
    calling.join()
    assert cancelled == ["photo-2"]
    assert (answers[0].status_code, answers[0].json()["error"]) == (409, "cancelled")
    wait_until_idle(client)
