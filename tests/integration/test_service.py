"""The running service as its clients use it."""

from __future__ import annotations

import io
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import bentoml
import httpx
import numpy as np
import pytest
from PIL import ExifTags, Image

from tests.pictures import encoded, hill, opened

SLOW: dict[str, Any] = {"prompt": "future", "mock_depth": True, "steps": 50, "width": 512}
QUICK: dict[str, Any] = {
    "prompt": "untouched wilderness",
    "mock_depth": True,
    "steps": 2,
    "seed": 5,
}


Post = Callable[[dict[str, Any]], Future[httpx.Response]]


@pytest.fixture
def background(
    client: httpx.Client,
) -> Iterator[Callable[[dict[str, Any]], Future[httpx.Response]]]:
    """Posts to /generate from other threads."""
    with ThreadPoolExecutor(4) as pool:
        yield lambda body: pool.submit(client.post, "/generate", json=body)
        client.post("/cancel", json={"all": True})


def wait_until_running(client: httpx.Client, count: int = 1) -> None:
    deadline = time.monotonic() + 20
    while client.get("/healthcheck").json()["queue"]["running"] < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_depth_map_in_a_picture_out(client: httpx.Client) -> None:
    depth = encoded(Image.fromarray(hill(300, 200)))
    body = {"prompt": "future solarpunk urban", "depth_map_b64": depth, "seed": 42, "steps": 3,
            "negative_prompt": "blurry", "era": "future", "request_id": "table-1"}  # fmt: skip
    answer = client.post("/generate", json=body).json()
    assert answer["success"] is True
    assert answer["error_message"] is None
    assert (answer["seed_used"], answer["model_used"]) == (42, "base")
    assert answer["request_id"] == "table-1"
    assert answer["images_b64"] == [answer["image_b64"]]
    assert answer["generation_time"] > 0
    picture = opened(answer["image_b64"])
    assert (picture.format, picture.size) == ("JPEG", (256, 256))
    metadata = answer["metadata"]
    assert (metadata["steps"], metadata["era"], metadata["width"]) == (3, "future", 256)
    assert set(metadata["timings"]) == {"queue", "encode", "denoise", "decode", "save"}
    assert "future" in metadata["warnings"][0]
    comment = picture.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
    assert json.loads(comment[8:])["seed"] == 42


def test_the_same_seed_is_the_same_picture_and_another_is_another(client: httpx.Client) -> None:
    body = {**QUICK, "output_format": "png"}
    first, again = (client.post("/generate", json=body).json()["image_b64"] for _ in range(2))
    assert first == again
    other = client.post("/generate", json={**body, "seed": 6}).json()["image_b64"]
    assert other != first


def test_several_pictures(client: httpx.Client) -> None:
    answer = client.post("/generate", json={**QUICK, "num_images": 3}).json()
    assert len(set(answer["images_b64"])) == 3
    assert answer["image_b64"] == answer["images_b64"][0]


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_the_picture_itself(client: httpx.Client, kind: str) -> None:
    response = client.post("/generate", json=QUICK, headers={"Accept": f"image/{kind}"})
    assert response.headers["content-type"] == f"image/{kind}"
    assert response.headers["x-seed"] == "5"
    assert response.headers["x-model"] == "base"
    assert len(response.headers["x-request-id"]) == 32
    assert json.loads(response.headers["x-timings"])["denoise"] > 0
    picture = Image.open(io.BytesIO(response.content))
    assert (picture.format, picture.size) == (kind.upper(), (256, 256))


def events_of(response: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    name = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            yield name, json.loads(line[6:])


def test_a_stream_tells_how_it_goes(client: httpx.Client) -> None:
    body = {**QUICK, "steps": 4}
    with client.stream("POST", "/generate_stream", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = list(events_of(response))
    names = [name for name, _ in events]
    assert names == ["queued", "started", *["step"] * 4, "done"]
    assert [(e["step"], e["steps"]) for name, e in events if name == "step"] == [
        (1, 4), (2, 4), (3, 4), (4, 4)
    ]  # fmt: skip
    preview = next(event["preview_b64"] for _, event in events if "preview_b64" in event)
    assert opened(preview).format == "JPEG"
    assert events[-1][1]["image_b64"] == client.post("/generate", json=body).json()["image_b64"]


def test_leaving_a_stream_ends_the_work(client: httpx.Client) -> None:
    with client.stream("POST", "/generate_stream", json=SLOW) as response:
        for name, _ in events_of(response):
            if name == "step":
                break
    deadline = time.monotonic() + 5
    while client.get("/healthcheck").json()["queue"]["running"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_hanging_up_ends_the_work(client: httpx.Client, service_url: str) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{service_url}/generate", json=SLOW, timeout=0.5)
    deadline = time.monotonic() + 5
    while client.get("/healthcheck").json()["queue"]["running"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_cancelling(client: httpx.Client, background: Post) -> None:
    call = background({**SLOW, "request_id": "long"})
    wait_until_running(client)
    started = time.monotonic()
    assert client.post("/cancel", json={"request_id": "long"}).json() == {"cancelled": ["long"]}
    response = call.result(timeout=10)
    assert time.monotonic() - started < 3
    assert response.status_code == 409
    assert response.json()["error"] == "cancelled"
    assert response.json()["request_id"] == "long"
    assert client.post("/cancel", json={"request_id": "long"}).json() == {"cancelled": []}


def test_cancel_wants_exactly_one(client: httpx.Client) -> None:
    for body in ({}, {"all": True, "session": "x"}, {"what": 1}):
        assert client.post("/cancel", json=body).status_code == 400


def test_the_latest_of_a_session_wins(client: httpx.Client, background: Post) -> None:
    old = background({**SLOW, "session": "table"})
    wait_until_running(client)
    new = client.post("/generate", json={**QUICK, "session": "table"})
    assert new.status_code == 200
    assert old.result(timeout=10).status_code == 409
    assert old.result().json()["error"] == "superseded"


def test_equal_ids_share_the_work(client: httpx.Client, background: Post) -> None:
    body = {**SLOW, "steps": 8, "request_id": "shared"}  # without a seed: drawn by the first
    calls = [background(body), background(body)]
    first, second = (call.result(timeout=60).json() for call in calls)
    assert first["image_b64"] == second["image_b64"]
    assert first["seed_used"] == second["seed_used"]


def test_who_joins_gets_the_pictures_format_as_it_is(
    client: httpx.Client, background: Post
) -> None:
    body = {**SLOW, "steps": 10, "request_id": "formats"}
    first = background(body)
    wait_until_running(client)
    second = client.post("/generate", json=body, headers={"Accept": "image/png"})
    assert first.result(timeout=60).status_code == 200
    assert second.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(second.content)).format == "JPEG"
    assert second.headers["x-request-id"] == "formats"


def large_depth() -> str:
    noise = np.random.default_rng(0).integers(0, 256, (3500, 3500), np.uint8)
    return encoded(Image.fromarray(noise), compress_level=1)


def test_cancelling_reaches_requests_whose_depth_map_is_being_decoded(
    client: httpx.Client, background: Post
) -> None:
    body = {**QUICK, "mock_depth": False, "depth_map_b64": large_depth(), "session": "decoding"}
    call = background(body)
    cancelled: list[str] = []
    while not cancelled and not call.done():
        cancelled = client.post("/cancel", json={"session": "decoding"}).json()["cancelled"]
    assert cancelled
    assert call.result(timeout=20).json()["error"] == "cancelled"


def test_a_slow_depth_map_does_not_make_an_old_request_the_latest(
    client: httpx.Client, background: Post
) -> None:
    body = {**QUICK, "mock_depth": False, "depth_map_b64": large_depth(), "session": "order"}
    old = background(body)
    time.sleep(0.25)
    new = client.post("/generate", json={**QUICK, "steps": 20, "session": "order"})
    assert new.status_code == 200
    assert old.result(timeout=20).status_code in {200, 409}


def test_what_cannot_be_in_time_is_not_computed(client: httpx.Client) -> None:
    started = time.monotonic()
    response = client.post("/generate", json={**SLOW, "deadline_ms": 300})
    assert (response.status_code, response.json()["error"]) == (504, "deadline_exceeded")
    assert time.monotonic() - started < 3


def test_health_answers_within_100_ms_while_the_runner_computes(
    client: httpx.Client, background: Post
) -> None:
    call = background(SLOW)
    wait_until_running(client)
    seconds = []
    for turn in range(120):
        started = time.perf_counter()
        response = client.request("POST" if turn % 2 else "GET", "/healthcheck")
        seconds.append(time.perf_counter() - started)
        assert response.status_code == 200
    assert not call.done()
    assert np.percentile(seconds, 95) < 0.1
    body = response.json()
    assert body["status"] == "ready"
    assert body["models_loaded"] == body["models_available"] == ["base"]
    assert body["queue"]["estimated_seconds"] > 0
    assert body["startup_status"] == {"download_progress": {}, "startup_error": None}


def test_models(client: httpx.Client) -> None:
    body = client.get("/models").json()
    assert body == client.post("/models").json()
    assert body["available_models"] == ["base"]
    assert body["available_controlnets"] == ["sdxl_small"]
    assert set(body["available_eras"]) >= {"wilderness", "pre_industrial", "future"}
    assert "euler_a" in body["available_schedulers"]
    details = body["details"]["base"]
    assert details["resident"] is True
    assert details["size_bytes"] > 10**6
    assert details["native_size"] == 256
    assert len(details["digest"]) == 32


def test_unloading_and_loading(client: httpx.Client) -> None:
    gone = client.post("/unload", json={"model": "base"}).json()
    assert gone["loaded_models"] == []
    assert client.get("/models").json()["details"]["base"]["resident"] is False
    back = client.post("/preload?model_name=base&controlnet_id=sdxl_small").json()
    assert (back["status"], back["loaded_models"]) == ("success", ["base"])
    client.post("/unload", json={"model": "base", "controlnet": "sdxl_small"})
    assert client.post("/generate", json=QUICK).status_code == 200
    unknown = client.post("/preload", json={"model": "turbo"})
    assert (unknown.status_code, unknown.json()["error"]) == (400, "unknown_model")


def test_the_python_client(service_url: str) -> None:
    with bentoml.SyncHTTPClient(service_url) as python:
        answer = python.generate(prompt="wilderness", mock_depth=True, steps=1, seed=3)
        assert answer["seed_used"] == 3
        assert python.healthcheck()["ready_for_inference"] is True
        assert python.models()["available_models"] == ["base"]
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
        "model": "base",
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
    assert {"/generate", "/generate_stream", "/cancel", "/preload", "/unload"} <= set(
        document["paths"]
    )
    assert set(document["paths"]["/healthcheck"]) >= {"get", "post"}
    text = json.dumps(document)
    for field in ("depth_map_b64", "control_guidance_end", "multiple of 8", "latest wins"):
        assert field in text
    assert client.get("/").status_code == 200
    assert "BentoML" not in document["info"]["description"]
    answers = document["paths"]["/generate"]["post"]["responses"]
    assert set(answers) == {"200", *["400", "401", "409", "413", "415", "429", "500", "503", "504"]}
    assert "image/png" in answers["200"]["content"]
    referenced = set(re.findall(r"#/components/schemas/([^\"]+)", text))
    assert referenced <= set(document["components"]["schemas"])


def test_more_calls_than_a_connection_of_bentoml_takes(client: httpx.Client) -> None:
    failures: list[int] = []

    def ask() -> None:
        for _ in range(60):
            status = client.post("/cancel", json={"request_id": "nobody"}).status_code
            failures.extend([status] if status != 200 else [])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    answer = client.post("/generate", json={**QUICK, "steps": 12})
    for thread in threads:
        thread.join()
    assert failures == []
    assert answer.status_code == 200
