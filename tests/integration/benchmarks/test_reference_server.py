"""The benchmarks' reference server paints what the service paints."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.support.calls import PATIENCE
from tests.support.images.pictures import encoded, hill, opened

_DEPTH = encoded(Image.fromarray(hill(256, 320)))
# In the order of a session: variants and LoRAs come, stay and go.
_REQUESTS: list[dict[str, Any]] = [
    {"mock_depth": True},
    {"era": "wilderness"},
    {"era": "future", "control_guidance_start": 0.2, "control_guidance_end": 0.8},
    {},
    {"model": "base", "era": "industrial", "steps": 4, "negative_prompt": "blurry, cartoon"},
    {"model": "base", "steps": 3, "cfg": 4.0, "controlnet_strength": 1.3},
    {"model": "hyper", "era": "ruins", "width": 256, "height": 320},
    {"era": "wilderness"},
]


@pytest.fixture
def reference(reference_url: str) -> httpx.Client:
    return httpx.Client(base_url=reference_url, timeout=PATIENCE)


def _pixels(answer: httpx.Response) -> np.ndarray[Any, np.dtype[np.int_]]:
    answer.raise_for_status()
    return np.asarray(opened(answer.json()["image_b64"])).astype(int)


def _body(number: int, changes: dict[str, Any]) -> dict[str, Any]:
    body = {"prompt": "aerial photography, rivers", "seed": number, "output_format": "png"}
    if "mock_depth" not in changes:
        body["depth_map_b64"] = _DEPTH
    return body | changes


def test_reference_images_match_the_service(client: httpx.Client, reference: httpx.Client) -> None:
    plain = []
    for number, changes in enumerate(_REQUESTS):
        body = _body(number, changes)
        ours, theirs = client.post("/generate", json=body), reference.post("/generate", json=body)
        painted, expected = _pixels(ours), _pixels(theirs)
        assert painted.shape == expected.shape
        assert np.abs(painted - expected).max() <= 2, changes
        for name in ("seed_used", "model_used", "success"):
            assert ours.json()[name] == theirs.json()[name]
        plain.append(painted)
    assert np.abs(plain[3] - plain[1]).max() > 20


def test_reference_server_returns_jpeg_and_rejects_unknown_eras(
    reference: httpx.Client,
) -> None:
    body = {"prompt": "rivers", "mock_depth": True, "steps": 1}
    answer = reference.post("/generate", json=body).json()
    assert opened(answer["image_b64"]).format == "JPEG"
    assert answer["generation_time"] > 0
    assert reference.post("/generate", json={**body, "era": "stone"}).status_code == 400
