"""Requests that the schema describes, and ones that it forbids: never a fault, always the one form.

FUZZ_EXAMPLES says how many of each kind for each operation; `make fuzz` takes 200.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from PIL import Image
from schemathesis import GenerationMode

from tests.support.attack_helpers import BUSY, EXAMPLES, check_form
from tests.support.calls import PATIENCE
from tests.support.images.pictures import encoded, hill

FOUND = json.loads(Path(__file__).with_name("fuzz_regressions.json").read_text())
# What a picture costs grows with these: the cheapest, in place of whatever is within the bounds.
CHEAP = {
    "steps": (1, 1, 50), "cfg": (1.0, 0, 20), "width": (256, 256, 2048),
    "height": (256, 256, 2048), "num_images": (1, 1, 4),
}  # fmt: skip
PHOTOGRAPH = encoded(Image.fromarray(hill()))
OPERATIONS = [
    ("POST", "/generate"), ("POST", "/generate_stream"), ("POST", "/estimate_depth"),
    ("POST", "/cancel"), ("POST", "/preload"), ("POST", "/unload"),
    ("POST", "/healthcheck"), ("POST", "/models"), ("GET", "/healthcheck"),
    ("GET", "/models"), ("GET", "/livez"), ("GET", "/healthz"), ("GET", "/readyz"),
    ("GET", "/metrics"),
]  # fmt: skip


@pytest.fixture(scope="module")
def schema(service_url: str) -> Any:
    return schemathesis.openapi.from_url(f"{service_url}/docs.json")


def test_every_operation_is_fuzzed(schema: Any) -> None:
    operations = {
        (each.ok().method.upper(), each.ok().path) for each in schema.get_all_operations()
    }
    assert operations == set(OPERATIONS)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_answer_keeps_the_contract(
    schema: Any, method: str, path: str, mode: GenerationMode
) -> None:
    @given(case=schema[path][method].as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,),
    )
    def every(case: Any) -> None:
        if isinstance(case.body, dict):
            if mode is GenerationMode.POSITIVE:
                case.body = possible(path, case.body)
            if "generate" in path:
                case.body = {**case.body, **cheaper(case.body)}
            # Somebody else's work is under way on the same service.
            case.body.pop("all", None)
        answer = case.call(timeout=PATIENCE)
        assert answer.status_code < 500 or answer.status_code in BUSY, answer.text
        check_form(answer.status_code, answer.text, answer.headers)
        statuses.add(answer.status_code)

    statuses: set[int] = set()
    try:
        every()
    except Unsatisfiable:
        # Without parameters and body there is nothing to get wrong.
        assert mode is GenerationMode.NEGATIVE
    if mode is GenerationMode.POSITIVE:
        assert 200 in statuses, statuses


def possible(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """With what the schema cannot say: names that exist, one source of depth, time enough."""
    beyond = {"model", "controlnet", "era", "loras", "depth_map_b64", "image_b64", "strength",
              "depth_estimator", "deadline_ms", "session"}  # fmt: skip
    if path in {"/preload", "/unload"}:
        return {"controlnet": "sdxl_small"}
    rest = {name: value for name, value in body.items() if name not in beyond}
    if path == "/estimate_depth":
        return {**rest, "image_b64": PHOTOGRAPH}
    return {**rest, "mock_depth": True} if "prompt" in rest else rest


def cheaper(body: dict[str, Any]) -> dict[str, Any]:
    changed = {}
    for name, (cheap, least, most) in CHEAP.items():
        value = body.get(name, least)
        if type(value) in {int, float} and least <= value <= most:
            changed[name] = cheap
    return changed


@pytest.mark.parametrize("found", FOUND, ids=[case["name"] for case in FOUND])
def test_past_fuzzing_findings_stay_fixed(client: httpx.Client, found: dict[str, Any]) -> None:
    content = base64.b64decode(found["body"]) * found.get("times", 1)
    answer = client.request(
        found["method"], found["path"], content=content, headers=found["headers"]
    )
    assert answer.status_code == found["status"], answer.text[:300]
    check_form(answer.status_code, answer.text, answer.headers)
