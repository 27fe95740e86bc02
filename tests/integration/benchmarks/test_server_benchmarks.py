"""Benchmarks on a running service, and the reference server that some compare it with."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from benchmarks import overhead
from testing.server import ROOT
from tests.support.calls import PATIENCE
from tests.support.images.pictures import encoded, hill, opened

_DEPTH = encoded(Image.fromarray(hill(256, 320)))
# In the order of a session: variants and LoRAs come, stay and go.
_REQUESTS: list[dict[str, Any]] = [
    {"mock_depth": True},
    {"era": "wilderness"},
    {"era": "future", "control_guidance_start": 0.2, "control_guidance_end": 0.8, "steps": 6},
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
    body = {
        "prompt": "aerial photography, rivers", "seed": number, "steps": 2, "output_format": "png"
    }  # fmt: skip
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


def test_isolation_holds_for_a_few_requests(service_url: str, demo_home: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.isolation", "--requests", "4", "--seed", "3"]
    servers = ["--url", service_url, "--home", str(demo_home)]
    done = subprocess.run(command + servers, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["requests"] == 4
    assert result["figure"] <= result["bar"] == 1


def test_overhead_ends_with_one_json_line(
    service_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--rounds", "1", "--steps", "2", "--url", service_url]
    monkeypatch.setattr(sys, "argv", ["overhead", *options])
    with pytest.raises(SystemExit) as ended:
        overhead.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["bar"] == 1.05
    assert result["pass"] is (result["figure"] <= 1.05)
    assert ended.value.code == (0 if result["pass"] else 1)


@pytest.mark.parametrize("name", ["throughput", "switching"])
def test_rivals_end_with_one_json_line(name: str, service_url: str, reference_url: str) -> None:
    urls = ["--url", service_url, "--reference-url", reference_url]
    command = [sys.executable, "-m", f"benchmarks.{name}", "--smoke", *urls]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    result = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == (0 if result["pass"] else 1), done.stderr
    if name == "switching":
        for changing in (result["eras"], result["models"]):
            assert all(before != after for before, after in itertools.pairwise(changing))
        lost = result["seconds"]["eras, reference"]["lost s"]
        assert result["pass"] is (lost > 0 and result["figure"] <= result["bar"])
        return
    bars = {**result["bar"]["at_least"], **result["bar"]["at_most"]}
    assert set(result["figure"]) == set(bars)
    assert result["pass"] is (not result["missed"])
    for scenario in result["scenarios"].values():
        asked = {row["delivered"] + row["abandoned"] for row in scenario.values()}
        assert len(asked) == 1
