"""Servers of its own for a benchmark or a test: real processes, own store, free ports."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx

ROOT = Path(__file__).parent.parent
_START_SECONDS = 120
_PORTS = range(10_000, 32_000)


def free_port() -> int:
    """A TCP port that nothing listens on now, and that no outgoing connection is given."""
    while True:
        port = _PORTS.start + secrets.randbelow(len(_PORTS))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port


def import_demo(home: Path) -> None:
    """Bring the demo set into the Bento store at `home`."""
    command = [sys.executable, "-m", "models", "import", "--catalog", "demo"]
    environment = {**os.environ, "BENTOML_HOME": str(home)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def started_service(
    home: Path,
    log: Path,
    settings: Mapping[str, str] | None = None,
    *,
    ready: bool = True,
    bento: str | None = None,
    folder: Path = ROOT,
    seconds: float = _START_SECONDS,
) -> Iterator[str]:
    """Start `bentoml serve` on the store at `home`; yields its URL once it is ready.

    Args:
        home: a Bento home into which models were imported.
        log: receives everything that the service prints.
        settings: further environment variables.
        ready: whether to wait until it is ready; else until it answers at all.
        bento: the tag of a Bento at `home`; without it the service of this repository.
        folder: the working folder.
        seconds: how long the start may take.
    """
    port = free_port()
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        "CATALOG": "demo",
        "MODEL_SERVER_PORT": str(port),
        **(settings or {}),
    }
    command = [sys.executable, "-m", "bentoml", "serve", *([bento] if bento else [])]
    with _started(command, folder, environment, log) as process:
        url = f"http://127.0.0.1:{port}"
        _wait(f"{url}/readyz" if ready else f"{url}/livez", process, log, seconds)
        yield url


@contextlib.contextmanager
def started_reference(log: Path) -> Iterator[str]:
    """Start benchmarks/support/reference_server.py; yields its URL once it is ready.

    Args:
        log: receives everything that it prints.
    """
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.support.reference_server", "--port", str(port)]
    with _started(command, ROOT, os.environ, log) as process:
        url = f"http://127.0.0.1:{port}"
        _wait(f"{url}/readyz", process, log, _START_SECONDS)
        yield url


@contextlib.contextmanager
def _started(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that writes to `log` and is stopped at the end."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def running_service(url: str | None = None) -> Iterator[str]:
    """The service at `url`, or without one a fresh service on the demo set."""
    if url is not None:
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="experimance-") as folder:
        home = Path(folder, "bentoml")
        import_demo(home)
        with started_service(home, Path(folder, "log")) as started:
            yield started


def _wait(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url).status_code == httpx.codes.OK:
                return
        time.sleep(0.1)
    tail = log.read_text(errors="replace")[-2000:]
    raise RuntimeError(f"{url} did not become ready:\n{tail}")
