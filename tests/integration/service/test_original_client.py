"""The installation's first client, which posts everything and reads the answer's fields."""

from __future__ import annotations

import base64
import io
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from testing.workbench import demo_catalog

NEGATIVE = "blurry, warped, sketch, cartoon, illustration, oversaturated, fish-eye lens"


def depth_map() -> str:
    """1024 x 1024, 8-bit grey, near = bright, cropped to a circle, as a data URL."""
    rows, columns = np.mgrid[-1:1:1024j, -1:1:1024j]
    distance = np.hypot(rows, columns)
    hill = np.where(distance < 1, 255 * (1 - distance), 0).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(hill).save(stream, "png")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def payload(era: str, **more: Any) -> dict[str, Any]:
    spec = demo_catalog().eras[era]
    return {
        "prompt": f"aerial photography, hills, valleys, {spec.prompt}",
        "negative_prompt": NEGATIVE,
        "depth_map_b64": depth_map(),
        "model": "lightning",
        "controlnet": "sdxl_small",
        "era": era,
        "loras": [{"name": name, "strength": value} for name, value in spec.loras.items()],
        "steps": 6,
        "cfg": 2.0,
        "seed": 1,
        "controlnet_strength": 0.8,
        "control_guidance_start": 0.0,
        "control_guidance_end": 0.8,
        "scheduler": "auto",
        "use_jpeg": True,
        **more,
    }


@pytest.mark.parametrize("era", ["wilderness", "future", "none"])
def test_answer_has_every_field_the_client_reads(client: httpx.Client, era: str) -> None:
    sent = payload(era)
    answer = client.post("/generate", json=sent)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["success"] is True
    assert body["error_message"] is None
    assert (body["seed_used"], body["model_used"]) == (1, "lightning")
    assert body["generation_time"] > 0
    assert body["images_b64"] == [body["image_b64"]]
    picture = Image.open(io.BytesIO(base64.b64decode(body["image_b64"], validate=True)))
    assert picture.format == "JPEG"
    metadata = body["metadata"]
    assert (metadata["steps"], metadata["cfg"], metadata["era"]) == (6, 2.0, era)
    assert metadata["control_guidance_end"] == 0.8
    assert {lora["name"]: lora["strength"] for lora in metadata["loras"]} == {
        lora["name"]: lora["strength"] for lora in sent["loras"]
    }


def test_use_jpeg_false_is_a_png(client: httpx.Client) -> None:
    body = client.post("/generate", json=payload("modern", use_jpeg=False, steps=1)).json()
    picture = Image.open(io.BytesIO(base64.b64decode(body["image_b64"])))
    assert picture.format == "PNG"


def test_an_undecodable_depth_map_is_an_error_and_no_mock(client: httpx.Client) -> None:
    answer = client.post(
        "/generate", json=payload("modern", depth_map_b64="data:image/png;base64,AA")
    )
    assert answer.status_code == 400
    body = answer.json()
    assert (body["success"], body["error"]) == (False, "invalid_depth_map")
    assert "depth_map_b64" in body["error_message"]


def test_original_client_preloads_by_query_and_posts(client: httpx.Client) -> None:
    query = {"model_name": "hyper", "controlnet_id": "sdxl_small"}
    loaded = client.post("/preload", params=query, json={})
    assert loaded.status_code == 200, loaded.text
    assert loaded.json()["status"] == "success"
    assert "hyper" in loaded.json()["loaded_models"]
    health = client.post("/healthcheck").json()
    assert health["model_server_healthy"] is True
    assert health["ready_for_inference"] is True
    assert {"hyper", "lightning"} <= set(health["models_available"])
    known = client.post("/models").json()
    assert {"lightning", "hyper", "base"} <= set(known["available_models"])
    assert "sdxl_small" in known["available_controlnets"]
