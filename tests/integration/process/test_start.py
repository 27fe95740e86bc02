"""Starts that must not succeed, and a stop that must."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from testing.server import ROOT, started_service
from tests.support.calls import PATIENCE, ServiceLog
from tests.support.service_process import serve


def test_missing_weights_stop_start_with_import_command(tmp_path: Path) -> None:
    done = serve(tmp_path)
    assert done.returncode != 0
    assert "models.lightning, models.hyper, models.base, controlnets.sdxl_small" in done.stderr
    assert "python -m models import --catalog demo" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("CATALOG", "sd15", "demo, experimance"),
        ("PRELOAD_MODEL", "turbo", "lightning, hyper, base"),
        ("MODEL_SERVER_PORT", "70000", "less than or equal to 65535"),
        ("MAX_QUEUE", "0", "greater than or equal to 1"),
        ("LOG_FORMAT", "xml", "'text' or 'json'"),
        ("COMPILE", "max", "'off' or 'regional'"),
        ("ATTENTION_BACKEND", "flash", "'sdpa' or 'xformers'"),
    ],
)
def test_a_bad_setting_stops_the_start(
    demo_home: Path, name: str, value: str, accepted: str
) -> None:
    done = serve(demo_home, **{name: value})
    assert done.returncode != 0
    assert name in done.stderr or value in done.stderr
    assert accepted in done.stderr
    assert "Traceback" not in done.stderr


def test_importing_the_service_needs_neither_torch_nor_weights(tmp_path: Path) -> None:
    code = "import service, sys; assert 'torch' not in sys.modules, 'torch'"
    environment = {**os.environ, "BENTOML_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)


def test_stop_finishes_work_with_token_and_json_logs(demo_home: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    settings = {"API_TOKEN": "s3cret,another", "LOG_FORMAT": "json"}
    with (
        ThreadPoolExecutor(1) as pool,
        started_service(demo_home, log, settings) as url,
        httpx.Client(base_url=url, timeout=PATIENCE) as client,
    ):
        body = {"prompt": "x", "mock_depth": True, "steps": 50, "request_id": "last-words"}
        body["session"] = "table"
        assert client.get("/healthcheck").status_code == 200
        assert client.post("/generate", json=body).status_code == 401
        assert client.get("/models").status_code == 401
        bearer = {"Authorization": "Bearer s3cret"}
        seen = ServiceLog(log)
        call = pool.submit(
            httpx.post, f"{url}/generate", json=body, headers=bearer, timeout=PATIENCE
        )
        seen.wait_for("started", "last-words")
        # Ids and sessions are those of the token that made them.
        stranger = {"Authorization": "Bearer another"}
        for named in ({"request_id": "last-words"}, {"session": "table"}):
            answer = client.post("/cancel", json=named, headers=stranger)
            assert answer.json() == {"cancelled": []}
        assert seen.events("last-words") == ["started"]
    assert call.result().status_code == 200
    text = log.read_text(errors="replace")
    assert '"request_id": "last-words"' in text
    assert "s3cret" not in text
