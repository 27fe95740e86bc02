"""Every bound of the wire contract, at the running service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.support.calls import ServiceLog, wait_until_idle
from tests.support.images.pictures import encoded, hill

VALID: dict[str, Any] = {"prompt": "untouched wilderness", "mock_depth": True, "steps": 1, "cfg": 1}

BAD: list[tuple[str, Any, str]] = [
    ("prompt", "", "at least 1 character"),
    ("prompt", " \n", "must not be blank"),
    ("prompt", "x" * 2001, "at most 2000 characters"),
    ("prompt", None, "valid string"),
    ("prompt", 7, "valid string"),
    ("prompt", "nul \0 char", "control characters"),
    ("prompt", "c1 \x85 char", "control characters"),
    ("negative_prompt", "x" * 2001, "at most 2000 characters"),
    ("steps", 0, "greater than or equal to 1"),
    ("steps", 51, "less than or equal to 50"),
    ("steps", 2.5, "integer"),
    ("steps", True, "number"),
    ("steps", "5", "number"),
    ("cfg", -0.1, "greater than or equal to 0"),
    ("cfg", 20.1, "less than or equal to 20"),
    ("seed", -1, "greater than or equal to 0"),
    ("seed", 2**63, "less than or equal to"),
    ("num_images", 0, "greater than or equal to 1"),
    ("num_images", 5, "less than or equal to 4"),
    ("controlnet_strength", -0.1, "greater than or equal to 0"),
    ("controlnet_strength", 2.1, "less than or equal to 2"),
    ("control_guidance_start", -0.1, "greater than or equal to 0"),
    ("control_guidance_start", 1.1, "less than or equal to 1"),
    ("control_guidance_end", 1.1, "less than or equal to 1"),
    ("guidance_start", -0.1, "greater than or equal to 0"),
    ("guidance_end", 1.1, "less than or equal to 1"),
    ("lora_strength", -5.1, "greater than or equal to -5"),
    ("lora_strength", 5.1, "less than or equal to 5"),
    ("loras", [{"name": "a", "strength": 5.1}], "less than or equal to 5"),
    ("loras", [{"name": "a"}] * 5, "at most 4 items"),
    ("width", 248, "greater than or equal to 256"),
    ("width", 2056, "less than or equal to 2048"),
    ("width", 260, "multiple of 8"),
    ("height", 0, "greater than or equal to 256"),
    ("height", 1001, "multiple of 8"),
    ("scheduler", "heun", "'dpm_multi'"),
    ("decoder", "huge", "'full' or 'tiny'"),
    ("output_format", "gif", "'jpeg', 'png' or 'webp'"),
    ("quality", 0, "greater than or equal to 1"),
    ("quality", 101, "less than or equal to 100"),
    ("request_id", "", "pattern"),
    ("request_id", "x" * 65, "pattern"),
    ("request_id", "a/b", "pattern"),
    ("session", "", "at least 1 character"),
    ("deadline_ms", 0, "greater than or equal to 1"),
    ("strength", 1.5, "less than or equal to 1"),
    ("strength", 0.5, "needs image_b64"),
    ("image_b64", "AAAA", "beside a depth map it needs strength"),
    ("depth_estimator", "midas", "needs image_b64"),
    ("model", "turbo", "accepted: lightning, hyper, base"),
    ("controlnet", "canny", "accepted: sdxl_small"),
    ("era", "baroque", "wilderness"),
    ("loras", [{"name": "watercolour"}], "accepted: drone, experimance"),
    ("prompt", "a (hill:2.5)", "between 0 and 2"),
    ("negative_prompt", "a (hill:9)", "between 0 and 2"),
    ("colour", "red", "unknown field"),
    ("guidance_scale", 3, "unknown field; did you mean `cfg`?"),
    ("promt", "hills", "unknown field; did you mean `prompt`?"),
]

GOOD: list[dict[str, Any]] = [
    {"prompt": "x" * 2000, "negative_prompt": "y" * 2000},
    {"prompt": "Täler, 山 🏔\nand lakes"},
    {"cfg": 0},
    {"seed": 0},
    {"seed": 2**63 - 1, "num_images": 2},
    {"controlnet_strength": 0},
    {"controlnet_strength": 2},
    {"control_guidance_start": 1.0, "control_guidance_end": 1.0},
    {"cfg": 2, "guidance_start": 0.2, "guidance_end": 0.7},
    {"cfg": 2, "guidance_start": 1.0},
    {"lora_strength": -5, "loras": []},
    {"width": 264, "height": 328},
    {"quality": 1},
    {"quality": 100, "output_format": "webp"},
    {"request_id": "A-Za-z0-9._-" * 5},
    {"era": "wilderness", "negative_prompt": ""},
    {"scheduler": "unipc", "use_karras_sigmas": True},
    {"deadline_ms": 86_400_000},
]


@pytest.mark.parametrize(("field", "value", "accepted"), BAD)
def test_out_of_bounds(
    client: httpx.Client, service_log: Path, field: str, value: Any, accepted: str
) -> None:
    log = ServiceLog(service_log)
    response = client.post("/generate", json={**VALID, field: value})
    body = response.json()
    assert response.status_code == 400, body
    assert body["success"] is False
    assert body["error"] == "invalid_request" or body["error"].startswith("unknown_")
    assert any(problem["field"].startswith(field) for problem in body["detail"]), body
    assert accepted in body["error_message"]
    wait_until_idle(client)
    assert "started" not in log.events()


@pytest.mark.parametrize("fields", GOOD, ids=lambda fields: ",".join(fields))
def test_within_bounds(client: httpx.Client, fields: dict[str, Any]) -> None:
    response = client.post("/generate", json={**VALID, **fields})
    assert response.status_code == 200, response.text
    assert response.json()["success"] is True


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"mock_depth": False}, "depth_map_b64: one of depth_map_b64, mock_depth, image_b64"),
        ({"control_guidance_start": 0.9, "control_guidance_end": 0.1}, "control_guidance_start"),
        (
            {"guidance_start": 0.9, "guidance_end": 0.1},
            "guidance_start: must be at most guidance_end (0.1)",
        ),
        ({"scheduler": "ddim", "use_karras_sigmas": True}, "use_karras_sigmas"),
        ({"depth_map_b64": encoded(Image.fromarray(hill()))}, "mock_depth"),
        (
            {"image_b64": "AAAA", "strength": 0.5, "depth_estimator": "x"},
            "depth_estimator: must be left out where a depth map is given",
        ),
    ],
)
def test_fields_that_do_not_fit_together(
    client: httpx.Client, fields: dict[str, Any], named: str
) -> None:
    response = client.post("/generate", json={**VALID, **fields})
    assert response.status_code == 400
    assert named in response.json()["error_message"]


@pytest.mark.parametrize("text", ["", "%%", "AAAA", "https://localhost/x.png"])
def test_a_depth_map_that_cannot_be_decoded(client: httpx.Client, text: str) -> None:
    body = {"prompt": "x", "depth_map_b64": text}
    for route in ("/generate", "/generate_stream"):
        response = client.post(route, json=body)
        assert response.status_code == 400
        assert response.json()["error"] == "invalid_depth_map"
        assert "PNG, JPEG, WebP or TIFF" in response.json()["error_message"]


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b"null", b'"x"', b"", b"\xff", b'{"prompt": NaN}']
)
def test_invalid_bodies_are_rejected(client: httpx.Client, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    response = client.post("/generate", content=content, headers=headers)
    assert response.status_code == 400
    assert response.json()["error"] == "invalid_request"


def test_a_body_over_the_limit(client: httpx.Client) -> None:
    body = {"prompt": "x", "depth_map_b64": "A" * (33 * 2**20)}
    response = client.post("/generate", json=body)
    assert response.status_code == 413
    assert response.json()["error"] == "too_large"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("POST", "/nowhere", 404, "not_found"),
        ("GET", "/generate", 405, "method_not_allowed"),
        ("DELETE", "/models", 405, "method_not_allowed"),
        ("PUT", "/healthcheck", 405, "method_not_allowed"),
    ],
)
def test_unknown_routes_and_methods_are_rejected(
    client: httpx.Client, method: str, path: str, status: int, code: str
) -> None:
    response = client.request(method, path)
    assert (response.status_code, response.json()["error"]) == (status, code)


@pytest.mark.parametrize(
    "path",
    [
        "/generate", "/generate_stream", "/estimate_depth", "/cancel", "/preload", "/unload",
        "/healthcheck", "/models",
    ],
)  # fmt: skip
def test_pickle_is_refused_everywhere(client: httpx.Client, path: str) -> None:
    headers = {"Content-Type": "application/vnd.bentoml+pickle"}
    response = client.post(path, content=b"\x80\x04N.", headers=headers)
    assert response.status_code == 415
    assert response.json()["error"] == "unsupported_media_type"
