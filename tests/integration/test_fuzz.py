"""Requests that the schema describes, and ones that it forbids: never a fault, always the one form.

FUZZ_EXAMPLES says how many of each kind for each operation; `make fuzz` takes 200.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error

from tests.integration.harm import TELLTALES

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "20"))
FOUND = json.loads((Path(__file__).parent / "found_cases.json").read_text())
# What a picture costs grows with these: the cheapest, in place of whatever is within the bounds.
CHEAP = {
    "steps": (1, 1, 50), "cfg": (1.0, 0, 20), "width": (256, 256, 2048),
    "height": (256, 256, 2048), "num_images": (1, 1, 4),
}  # fmt: skip
BUSY = {429, 503}


@pytest.fixture(scope="module")
def fuzzed_schema(service_url: str) -> Any:
    return schemathesis.openapi.from_url(f"{service_url}/docs.json")


schema = schemathesis.pytest.from_fixture("fuzzed_schema")


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate),
)
def test_every_answer_keeps_the_contract(case: Any) -> None:
    if isinstance(case.body, dict):
        case.body = {**case.body, **cheaper(case.body)} if "generate" in case.path else case.body
        # Somebody else's work is under way on the same service.
        case.body.pop("all", None)
    answer = case.call(timeout=60)
    if answer.status_code not in BUSY:
        not_a_server_error(None, answer, case)
    check_form(answer.status_code, answer.text, answer.headers)


def cheaper(body: dict[str, Any]) -> dict[str, Any]:
    changed = {}
    for name, (cheap, least, most) in CHEAP.items():
        value = body.get(name, least)
        if type(value) in {int, float} and least <= value <= most:
            changed[name] = cheap
    return changed


def check_form(status: int, text: str, headers: Any) -> None:
    """An error is the contract's one object, with its id, and nothing of the inside."""
    if status < 400:
        return
    body = json.loads(text)
    assert set(body) == {"success", "error", "error_message", "detail", "request_id"}
    assert body["success"] is False
    assert body["request_id"]
    assert not [word for word in TELLTALES if word in body["error_message"]], body
    assert status not in BUSY or headers["Retry-After"]


@pytest.mark.parametrize("found", FOUND, ids=[case["name"] for case in FOUND])
def test_what_was_found_once_stays_mended(client: httpx.Client, found: dict[str, Any]) -> None:
    content = base64.b64decode(found["body"]) * found.get("times", 1)
    answer = client.request(
        found["method"], found["path"], content=content, headers=found["headers"]
    )
    assert answer.status_code == found["status"], answer.text[:300]
    check_form(answer.status_code, answer.text, answer.headers)
