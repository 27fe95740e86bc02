"""The running service as its clients use it: pictures, models, documentation."""

from __future__ import annotations

import io
import json
import re

import bentoml
import httpx
import numpy as np
import pytest
from PIL import ExifTags, Image

from tests.support.calls import PATIENCE, QUICK
from tests.support.images.pictures import encoded, hill, opened
from tests.support.waiting import wait_until


def test_a_depth_map_in_a_picture_out(client: httpx.Client) -> None:
    depth = encoded(Image.fromarray(hill(300, 200)))
    body = {"prompt": "future solarpunk urban", "depth_map_b64": depth, "seed": 42, "steps": 3,
            "negative_prompt": "blurry", "era": "future", "request_id": "table-1"}  # fmt: skip
    answer = client.post("/generate", json=body).json()
    assert answer["success"] is True
    assert answer["error_message"] is None
    assert (answer["seed_used"], answer["model_used"]) == (42, "lightning")
    assert answer["request_id"] == "table-1"
    assert answer["images_b64"] == [answer["image_b64"]]
    assert answer["generation_time"] > 0
    picture = opened(answer["image_b64"])
    assert (picture.format, picture.size) == ("JPEG", (256, 256))
    metadata = answer["metadata"]
    assert (metadata["steps"], metadata["era"], metadata["width"]) == (3, "future", 256)
    assert set(metadata["timings"]) == {"queue", "encode", "denoise", "decode", "save"}
    assert metadata["loras"] == [{"name": "experimance", "strength": 1.1}]
    assert metadata["warnings"] == []
    comment = picture.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
    assert json.loads(comment[8:])["seed"] == 42


def test_equal_seeds_give_equal_images_and_others_differ(client: httpx.Client) -> None:
    body = {**QUICK, "output_format": "png"}
    first, again = (client.post("/generate", json=body).json()["image_b64"] for _ in range(2))
    assert first == again
    other = client.post("/generate", json={**body, "seed": 6}).json()["image_b64"]
    assert other != first


@pytest.mark.parametrize("model", ["lightning", "hyper", "base"])
def test_the_tiny_decoder_paints_nearly_the_same(client: httpx.Client, model: str) -> None:
    body = {**QUICK, "model": model, "steps": 6, "output_format": "png"}
    full, tiny = (
        np.asarray(opened(client.post("/generate", json=each).json()["image_b64"]), float)
        for each in (body, {**body, "decoder": "tiny"})
    )
    assert 0 < np.abs(full - tiny).mean() < 20


def test_several_pictures(client: httpx.Client) -> None:
    answer = client.post("/generate", json={**QUICK, "num_images": 3}).json()
    assert len(set(answer["images_b64"])) == 3
    assert answer["image_b64"] == answer["images_b64"][0]


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_the_picture_itself(client: httpx.Client, kind: str) -> None:
    response = client.post("/generate", json=QUICK, headers={"Accept": f"image/{kind}"})
    assert response.headers["content-type"] == f"image/{kind}"
    assert response.headers["x-seed"] == "5"
    assert response.headers["x-model"] == "lightning"
    assert len(response.headers["x-request-id"]) == 32
    assert json.loads(response.headers["x-timings"])["denoise"] > 0
    picture = Image.open(io.BytesIO(response.content))
    assert (picture.format, picture.size) == (kind.upper(), (256, 256))


def test_models(client: httpx.Client) -> None:
    # What is resident is told a moment later, where the runner is busy.
    wait_until(lambda: client.get("/models").json() == client.post("/models").json())
    body = client.get("/models").json()
    assert body["available_models"] == ["lightning", "hyper", "base"]
    assert body["available_loras"] == ["drone", "experimance"]
    assert body["available_controlnets"] == ["sdxl_small"]
    assert len(body["available_eras"]) == 11
    assert "euler_a" in body["available_schedulers"]
    details = body["details"]["lightning"]
    assert details["resident"] is True
    assert details["size_bytes"] > 10**6
    assert details["native_size"] == 256
    assert details["decoders"] == ["full", "tiny"]
    assert len(details["digest"]) == 32


def test_unloading_and_loading(client: httpx.Client) -> None:
    gone = client.post("/unload", json={"model": "lightning"}).json()
    assert "lightning" not in gone["loaded_models"]
    wait_until(lambda: not client.get("/models").json()["details"]["lightning"]["resident"])
    back = client.post("/preload?model_name=lightning&controlnet_id=sdxl_small").json()
    assert back["status"] == "success"
    assert "lightning" in back["loaded_models"]
    client.post("/unload", json={"model": "lightning", "controlnet": "sdxl_small"})
    assert client.post("/generate", json=QUICK).status_code == 200
    unknown = client.post("/preload", json={"model": "turbo"})
    assert (unknown.status_code, unknown.json()["error"]) == (400, "unknown_model")


def test_the_python_client(service_url: str) -> None:
    with bentoml.SyncHTTPClient(service_url, timeout=PATIENCE) as python:
        answer = python.generate(prompt="wilderness", mock_depth=True, steps=1, seed=3)
        assert answer["seed_used"] == 3
        assert python.healthcheck()["ready_for_inference"] is True
        assert "hyper" in python.models()["available_models"]
        assert python.preload(model="base")["status"] == "success"
        assert python.cancel(all=True) == {"cancelled": []}
        stream = "".join(python.generate_stream(prompt="x", mock_depth=True, steps=1))
        assert "event: done" in stream


def test_multipart_forms_work_too(client: httpx.Client) -> None:
    fields = {"prompt": "hills", "mock_depth": "true", "steps": "1", "seed": "9"}
    form = {name: (None, value) for name, value in fields.items()}
    answer = client.post("/generate", files=form)
    assert answer.status_code == 200, answer.text
    assert answer.json()["seed_used"] == 9


def test_the_installations_payload(client: httpx.Client) -> None:
    payload = {
        "prompt": "aerial photography, pre-industrial, 1600s, subsistence agriculture",
        "negative_prompt": "blurry, warped, sketch, cartoon, illustration, oversaturated",
        "depth_map_b64": "data:image/png;base64," + encoded(Image.fromarray(hill(256, 256))),
        "era": "pre_industrial",
        "model": "lightning",
        "controlnet": "sdxl_small",
        "steps": 6,
        "cfg": 2.0,
        "seed": 1234,
        "lora_strength": 1.0,
        "loras": [],
        "controlnet_strength": 0.8,
        "control_guidance_start": 0.0,
        "control_guidance_end": 0.8,
        "scheduler": "auto",
        "use_karras_sigmas": None,
        "width": 512,
        "height": 512,
        "mock_depth": False,
        "enable_deepcache": False,
        "use_jpeg": True,
    }
    answer = client.post("/generate", json=payload).json()
    assert answer["success"] is True, answer
    assert opened(answer["image_b64"]).size == (512, 512)


def test_documentation_names_every_route_and_field(client: httpx.Client) -> None:
    document = client.get("/docs.json").json()
    routes = {"/generate", "/generate_stream", "/estimate_depth", "/cancel", "/preload", "/unload"}
    assert routes <= set(document["paths"])
    assert set(document["paths"]["/healthcheck"]) >= {"get", "post"}
    text = json.dumps(document)
    for field in ("depth_map_b64", "control_guidance_end", "multiple of 8", "latest wins"):
        assert field in text
    schemas = document["components"]["schemas"]
    asked = schemas["GenerateRequestIODescriptor"]["properties"]
    for field, bounds in (
        ("width", {"minimum": 256, "maximum": 2048, "multipleOf": 8}),
        ("cfg", {"minimum": 0, "maximum": 20}),
        ("seed", {"minimum": 0, "maximum": 2**63 - 1}),
        ("lora_strength", {"minimum": -5, "maximum": 5}),
    ):
        described, *_ = asked[field].get("anyOf", [asked[field]])
        assert {name: described.get(name) for name in bounds} == bounds
    assert client.get("/").status_code == 200
    assert "BentoML" not in document["info"]["description"]
    answers = document["paths"]["/generate"]["post"]["responses"]
    assert set(answers) == {"200", *["400", "401", "409", "413", "415", "429", "500", "503", "504"]}
    assert "image/png" in answers["200"]["content"]
    estimated = document["paths"]["/estimate_depth"]["post"]["responses"]
    assert set(estimated) == set(answers)
    assert set(estimated["200"]["content"]) == {"application/json", "image/png"}
    referenced = set(re.findall(r"#/components/schemas/([^\"]+)", text))
    assert referenced <= set(document["components"]["schemas"])
