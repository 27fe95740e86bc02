"""Hostile inputs and checks of the answers to them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

ROUTES = [
    "/generate", "/generate_stream", "/estimate_depth", "/cancel", "/preload", "/unload",
    "/healthcheck", "/models",
]  # fmt: skip
VALID: dict[str, Any] = {"prompt": "hills", "mock_depth": True, "steps": 1, "cfg": 1, "width": 256}
JSON = {"Content-Type": "application/json"}
# Of a file, an address or a package, which no answer may have.
TELLTALES = (
    "Traceback",
    "/home",
    "/work",
    "/tmp",
    "site-packages",
    ".py",
    "bentoml",
    "torch",
    "0x",
)


def refused(response: httpx.Response, *statuses: int) -> None:
    """In the contract's form, and with nothing of the inside."""
    assert response.status_code in statuses, response.text[:300]
    body = response.json()
    assert set(body) == {"success", "error", "error_message", "detail", "request_id"}
    assert not body["success"]
    leaked = [word for word in TELLTALES if word in response.text]
    assert not leaked, response.text[:500]


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.canary,)


@contextlib.contextmanager
def costing_at_most(seconds: float, process: psutil.Process) -> Iterator[None]:
    """Bound the processor time of a block, which does not depend on what else the machine does."""
    before = process.cpu_times()
    yield
    after = process.cpu_times()
    assert after.user + after.system - before.user - before.system < seconds


EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "20"))
BUSY = {429, 503}


def check_form(status: int, text: str, headers: Any) -> None:
    """An error is the contract's one object, with its id, and nothing of the inside."""
    if status < 400:
        return
    body = json.loads(text)
    assert set(body) == {"success", "error", "error_message", "detail", "request_id"}
    assert body["success"] is False
    assert body["request_id"]
    # The shorter ones occur in what a caller sent, which the message repeats.
    assert not [word for word in TELLTALES if len(word) > 3 and word in body["error_message"]], body
    assert status not in BUSY or headers["Retry-After"]
