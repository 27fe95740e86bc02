"""What Prometheus and an autoscaler read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import yaml

from benchmarks.server import ROOT, import_demo, started_service

MANIFEST = ROOT / "deploy" / "kubernetes" / "autoscaler.yaml"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service with a home of its own: BentoML empties the metrics of its home at every start."""
    home = tmp_path_factory.mktemp("home")
    import_demo(home)
    log = tmp_path_factory.mktemp("log") / "log"
    with started_service(home, log) as url, httpx.Client(base_url=url, timeout=120) as made:
        yield made


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


def test_what_the_autoscaler_asks_for_follows_the_queue(client: httpx.Client) -> None:
    (asked,) = yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))["spec"]["metrics"]
    name = asked["pods"]["metric"]["name"]
    client.get("/healthcheck")
    assert value(client, name) == 0.0
    body = {"prompt": "x", "mock_depth": True, "steps": 50, "width": 512, "height": 512}
    busy = 0.0
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(client.post, "/generate", json=body) for _ in range(3)]
        while not all(answer.done() for answer in answers):
            busy = max(busy, value(client, name))
    assert [answer.result().status_code for answer in answers] == [200] * 3
    assert busy > 0.5
    client.get("/healthcheck")
    assert value(client, name) == 0.0
