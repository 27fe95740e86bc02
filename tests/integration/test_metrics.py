"""What Prometheus and an autoscaler read."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import httpx
import yaml

from benchmarks.server import ROOT

MANIFEST = ROOT / "deploy" / "kubernetes" / "autoscaler.yaml"


def value(client: httpx.Client, name: str) -> float:
    """The value of the one sample with this name and these labels."""
    lines = client.get("/metrics").text.splitlines()
    (found,) = (line for line in lines if re.match(re.escape(name) + r"[{ ]", line))
    return float(found.rsplit(" ", 1)[1])


def test_the_start_is_exported(client: httpx.Client) -> None:
    text = client.get("/metrics").text
    phases = dict(re.findall(r'experimance_boot_seconds\{[^}]*phase="(\w+)"\} (\S+)', text))
    assert set(phases) == {"imports", "store", "load", "warm_up", "ready"}
    parts = sum(float(seconds) for phase, seconds in phases.items() if phase != "ready")
    assert abs(parts - float(phases["ready"])) < 0.1


def test_what_the_autoscaler_asks_for_follows_the_queue(
    client: httpx.Client, background: Callable[[dict[str, Any]], Future[httpx.Response]]
) -> None:
    (asked,) = yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))["spec"]["metrics"]
    name = asked["pods"]["metric"]["name"]
    client.get("/healthcheck")
    assert value(client, name) == 0.0
    answers = [
        background({"prompt": "x", "mock_depth": True, "steps": 50, "width": 512, "height": 512})
        for _ in range(3)
    ]
    busy = 0.0
    while not all(answer.done() for answer in answers):
        busy = max(busy, value(client, name))
    assert busy > 0.5
    client.get("/healthcheck")
    assert value(client, name) == 0.0
