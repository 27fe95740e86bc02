"""The start of the service: ready line, phases, and the exit status of configuration errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from common.lifecycle import CONFIGURATION_ERROR, READY_LINE
from testing.server import started_service
from tests.support.service_process import serve


def boot_phases(log: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == "boot"]


def read_metric(url: str, name: str) -> float:
    """The one sample of a metric without labels."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    (found,) = (line for line in lines if line.startswith(f"{name} "))
    return float(found.removeprefix(name))


def test_start_logs_ready_once_and_the_time_of_each_phase(demo_home: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with started_service(demo_home, log, {"LOG_FORMAT": "json"}, ready=False) as url:
        while httpx.get(f"{url}/readyz").status_code != 200:
            assert READY_LINE not in log.read_text().splitlines() or _answers_soon(url)
            time.sleep(0.05)
        text = log.read_text()
        assert text.splitlines().count(READY_LINE) == 1
        phases = boot_phases(text)
        assert [phase["phase"] for phase in phases] == [
            "imports",
            "store",
            "load",
            "warm_up",
            "ready",
        ]
        *parts, total = (phase["seconds"] for phase in phases)
        assert total == pytest.approx(sum(parts), abs=0.5)
        assert list(phases[3]["pictures"]) == ["256"]
        body = {"prompt": "hills", "mock_depth": True, "steps": 2}
        assert httpx.post(f"{url}/generate", json=body, timeout=60).status_code == 200
        assert log.read_text().splitlines().count(READY_LINE) == 1


def test_killed_runner_restarts_and_is_counted(demo_home: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with started_service(demo_home, log) as url:
        (runner,) = (
            process
            for process in psutil.Process().children(recursive=True)
            if "SDXLRunner" in " ".join(process.cmdline())
            and url.endswith(f":{process.environ().get('MODEL_SERVER_PORT')}")
        )
        assert read_metric(url, "experimance_runner_restarts_total") == 0
        os.kill(runner.pid, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while read_metric(url, "experimance_ready"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        while log.read_text(errors="replace").splitlines().count(READY_LINE) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        body = {"prompt": "hills", "mock_depth": True, "steps": 2}
        assert httpx.post(f"{url}/generate", json=body, timeout=60).status_code == 200
        while not read_metric(url, "experimance_ready"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert read_metric(url, "experimance_runner_restarts_total") == 1


@pytest.mark.parametrize(
    "settings", [{"MAX_QUEUE": "0"}, {"CATALOG": "sd15"}, {"PRELOAD_MODEL": "turbo"}]
)
def test_configuration_error_exits_with_78(demo_home: Path, settings: dict[str, str]) -> None:
    done: subprocess.CompletedProcess[str] = serve(demo_home, **settings)
    assert done.returncode == CONFIGURATION_ERROR == 78
    assert done.stderr.count("cannot start: ") == 1
    assert "Traceback" not in done.stderr


def test_missing_weights_exit_with_configuration_status(tmp_path: Path) -> None:
    done = serve(tmp_path)
    assert done.returncode == CONFIGURATION_ERROR
    assert "cannot start: weights of catalog 'demo' are missing" in done.stderr


def _answers_soon(url: str) -> bool:
    """The line and /readyz come from two processes, a moment apart."""
    time.sleep(2)
    return httpx.get(f"{url}/readyz").status_code == 200
