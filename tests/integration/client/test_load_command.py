"""Short runs of `experimance load` against the served demo set."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from testing.server import ROOT, free_port
from tests.support.calls import PATIENCE, ServiceLog
from tests.support.waiting import wait_until

QUICK = """
[load]
duration = "600s"

[fields]
prompt = "hills"
model = "lightning"
steps = 1
seed = { range = [0, 99] }

[[scenario]]
name = "plain"
weight = 2
depth = { terrain = 2, size = 256 }

[[scenario]]
name = "streamed"
stream = true
depth = "mock"

[[scenario]]
name = "picture"
answer = "jpeg"
depth = "mock"
"""
SESSION = """
[[scenario]]
name = "table"
depth = "mock"

[scenario.fields]
prompt = "hills"
model = "lightning"
steps = 15
width = 512
session = "load-table"
"""


def command(folder: Path, *options: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "client"), "COLUMNS": "120"}
    environment.pop("MODEL_SERVER_URL", None)
    return subprocess.Popen(
        [sys.executable, "-m", "experimance.load", *options], cwd=folder, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def load(folder: Path, *options: str) -> tuple[int, str, str]:
    process = command(folder, *options)
    output, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, output, errors


def check_sums(document: dict[str, Any]) -> None:
    summary = document["summary"]
    assert summary["sums_agree"] is True
    assert sum(summary["endings"].values()) == summary["requests"]
    assert len(document["requests"]["number"]) >= summary["requests"] > 0


def test_an_open_loop_with_both_reports(service_url: str, tmp_path: Path) -> None:
    (tmp_path / "quick.toml").write_text(QUICK)
    status, output, errors = load(
        tmp_path, "--url", service_url, "--scenario", "quick.toml", "--rate", "2",
        "--arrivals", "constant", "--warmup", "500ms", "--duration", "1.5s", "--timeout", "600",
        "--json", "r.json", "--html", "r.html",
        "--expect", "errors<1", "--expect", "p95<600",
    )  # fmt: skip
    assert status == 0, output + errors
    document = json.loads((tmp_path / "r.json").read_text())
    check_sums(document)
    assert document["summary"]["requests"] == 3
    assert len(document["requests"]["number"]) == 4
    assert document["summary"]["codes"]["ok"] == {"ok": 3}
    assert document["summary"]["timings"]["denoise"]["count"] == 3
    assert document["server"]["asked"] >= 1
    assert document["passed"] is True
    page = (tmp_path / "r.html").read_text()
    assert page.count("<svg") == 8
    assert "Met: p95&lt;600" in page
    assert "met    errors<1: it is 0" in output
    assert "3 requests in 1.5 s" in output


def test_a_closed_loop_that_misses_its_expectation(service_url: str, tmp_path: Path) -> None:
    (tmp_path / "quick.toml").write_text(QUICK)
    status, output, errors = load(
        tmp_path, "--url", service_url, "--scenario", "quick.toml", "--clients", "2",
        "--requests", "4", "--json", "-", "--quiet", "--expect", "p50<1ms",
    )  # fmt: skip
    assert status == 1, output + errors
    document = json.loads(output)
    check_sums(document)
    assert document["summary"]["requests"] == 4
    assert document["passed"] is False
    assert "missed p50<1ms: it is" in errors


def test_a_session_supersedes_its_own_requests(service_url: str, tmp_path: Path) -> None:
    (tmp_path / "table.toml").write_text(SESSION)
    status, output, errors = load(
        tmp_path, "--url", service_url, "--scenario", "table.toml", "--rate", "8",
        "--arrivals", "constant", "--duration", "1s", "--json", "r.json", "--expect", "errors<1",
    )  # fmt: skip
    assert status == 0, output + errors
    document = json.loads((tmp_path / "r.json").read_text())
    check_sums(document)
    causes = document["summary"]["codes"]
    assert causes["stopped"]["superseded"] >= 4
    requests = document["requests"]
    _, last = max(zip(requests["ended"], requests["ending"], strict=True))
    assert last == "ok"


def test_an_interrupted_run_reports_what_it_has(
    service_url: str, service_log: Path, tmp_path: Path
) -> None:
    (tmp_path / "quick.toml").write_text(QUICK)
    log = ServiceLog(service_log)
    process = command(
        tmp_path, "--url", service_url, "--scenario", "quick.toml", "--clients", "1",
        "--json", "r.json", "--html", "r.html",
    )  # fmt: skip
    # Before its first request there is nothing to report; the second begins after the first.
    wait_until(lambda: log.events().count("started") >= 2 or process.poll() is not None, PATIENCE)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, output + errors
    document = json.loads((tmp_path / "r.json").read_text())
    check_sums(document)
    assert document["interrupted"] is True
    assert "interrupted before its end" in (tmp_path / "r.html").read_text()


def test_nobody_at_home_is_status_1(tmp_path: Path) -> None:
    status, _, errors = load(tmp_path, "--url", f"http://127.0.0.1:{free_port()}")
    assert status == 1
    assert "nothing answers at http://127.0.0.1:" in errors
