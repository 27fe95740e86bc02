"""The start of the service: ready line, phases, and the exit status of configuration errors."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from common.lifecycle import CONFIGURATION_ERROR, READY_LINE
from testing.process_state import processes_of
from testing.server import started_service
from tests.support.calls import PATIENCE
from tests.support.service_process import serve
from tests.support.waiting import wait_until


def boot_phases(log: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == "boot"]


def read_metric(url: str, name: str) -> float:
    """The one sample of a metric without labels."""
    lines = httpx.get(f"{url}/metrics", timeout=PATIENCE).text.splitlines()
    (found,) = (line for line in lines if line.startswith(f"{name} "))
    return float(found.removeprefix(name))


def paint(url: str) -> int:
    """The status of a request for a picture."""
    body = {"prompt": "hills", "mock_depth": True, "steps": 2}
    return httpx.post(f"{url}/generate", json=body, timeout=PATIENCE).status_code


def test_start_logs_ready_once_and_the_time_of_each_phase(demo_home: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def ready_lines() -> int:
        return log.read_text().splitlines().count(READY_LINE)

    with started_service(demo_home, log, {"LOG_FORMAT": "json"}, ready=False) as url:
        wait_until(ready_lines, PATIENCE)
        # From here on the runner may take too long to say so, but never says otherwise.
        while (answer := httpx.get(f"{url}/readyz", timeout=PATIENCE)).status_code != 200:
            assert "does not respond" in answer.text
        assert ready_lines() == 1
        phases = boot_phases(log.read_text())
        assert [phase["phase"] for phase in phases] == [
            "imports",
            "store",
            "load",
            "warm_up",
            "ready",
        ]
        *parts, total = (phase["seconds"] for phase in phases)
        # Each is rounded to a millisecond.
        assert 0 < sum(parts) <= total + 0.005
        assert list(phases[3]["pictures"]) == ["256"]
        assert paint(url) == 200
        assert ready_lines() == 1


def test_killed_runner_restarts_and_is_counted(demo_home: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with started_service(demo_home, log) as url:
        runner = processes_of(int(url.rsplit(":", 1)[1]))["runner"]
        assert read_metric(url, "experimance_runner_restarts_total") == 0
        runner.kill()
        wait_until(lambda: not read_metric(url, "experimance_ready"))
        wait_until(
            lambda: log.read_text(errors="replace").splitlines().count(READY_LINE) == 2, PATIENCE
        )
        assert paint(url) == 200
        wait_until(lambda: read_metric(url, "experimance_ready"))
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
