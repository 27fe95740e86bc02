"""The serverless worker as a process, and the chain from the platform to the service."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from deploy.vast.build_context import copy_worker
from testing.server import ROOT, free_port
from tests.support.calls import PATIENCE, ServiceLog
from tests.support.vast.vast_platform import MASTER_TOKEN, Platform
from tests.support.waiting import wait_until

TOKEN = "the-services-token"


def client_packages(python: str) -> Path:
    """What the project's client needs and the worker's environment lacks, in a folder of its own.

    Installed once for each such environment.
    """
    declared = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text(encoding="utf-8"))
    [http] = [each for each in declared["project"]["dependencies"] if each.startswith("httpx2")]
    folder = Path(python).parents[1] / "client-packages"
    done = folder / ".installed"
    if not done.exists() or done.read_text(encoding="utf-8") != http:
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade"]
        subprocess.run([python, *install, "--target", folder, http], check=True)
        done.write_text(http, encoding="utf-8")
    return folder


@contextlib.contextmanager
def started_worker(
    python: str, folder: Path, platform: Platform, **settings: str
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The worker as the image lays it out, in a folder that has nothing else of the project."""
    copy_worker(folder)
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "CATALOG": "demo",
        "API_TOKEN": f"{TOKEN},the-next-token",
        "REPORT_ADDR": platform.url,
        "MASTER_TOKEN": MASTER_TOKEN,
        "CONTAINER_ID": "1",
        "PUBLIC_IPADDR": "127.0.0.1",
        "WORKER_PORT": str(port),
        f"VAST_TCP_PORT_{port}": str(port),
        **settings,
    }
    command = [python, "-m", "deploy.vast.worker"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.wait()


@dataclass(frozen=True)
class Chain:
    """A running service behind a running worker; `log` is the worker's, `served` the service's."""

    platform: Platform
    service: str
    worker: str
    process: subprocess.Popen[bytes]
    log: Path
    served: ServiceLog

    def post(
        self, route: str, payload: Any, headers: dict[str, str] | None = None, **auth: Any
    ) -> httpx.Response:
        body = self.platform.enveloped(self.worker, payload, **auth)
        return httpx.post(self.worker + route, json=body, headers=headers, timeout=PATIENCE)

    def queue(self) -> dict[str, Any]:
        health = httpx.get(f"{self.service}/healthcheck", timeout=PATIENCE)
        answer: dict[str, Any] = health.json()["queue"]
        return answer

    def await_queue(self, running: int) -> None:
        wait_until(lambda: self.queue()["running"] == running, PATIENCE)
