"""Service processes for benchmarks and tests, with their own stores and free ports."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx

ROOT = Path(__file__).parent.parent
SERVICE_START = ROOT / "testing" / "service_start"
"""Folder in the PYTHONPATH of services: they do without the packages of development."""
_START_SECONDS, _STOP_SECONDS = 600, 120
_PORTS = range(10_000, 32_000)


def free_port() -> int:
    """Return a TCP port without a listener, outside the ephemeral range of outgoing connections."""
    while True:
        port = _PORTS.start + secrets.randbelow(len(_PORTS))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port


def import_demo(home: Path) -> None:
    """Import the demo set into the Bento store at `home`."""
    command = [sys.executable, "-m", "models", "import", "--catalog", "demo"]
    environment = {**os.environ, "BENTOML_HOME": str(home)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)


def linked_home(store: Path, home: Path) -> Path:
    """Give the folder `home` the models of the Bento home `store`, as links; return `home`."""
    shutil.copytree(store / "models", home / "models", copy_function=os.link)
    return home


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
    """Run `bentoml serve` on the store at `home` for the duration of the context.

    Args:
        home: a Bento home with imported models.
        log: a file that receives stdout and stderr of the service.
        settings: additional environment variables.
        ready: wait until the service is ready; if false, until it responds at all.
        bento: tag of a Bento at `home`; default: the service of this repository.
        folder: the working folder.
        seconds: timeout of the start.

    Yields:
        The service's base URL.

    Raises:
        RuntimeError: The service exits or does not become ready in time.
    """
    port = free_port()
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        "PYTHONPATH": os.pathsep.join(
            [str(SERVICE_START), *filter(None, [os.environ.get("PYTHONPATH")])]
        ),
        "CATALOG": "demo",
        "MODEL_SERVER_PORT": str(port),
        **(settings or {}),
    }
    command = [sys.executable, "-m", "bentoml", "serve", *([bento] if bento else [])]
    with _run_process(command, folder, environment, log) as process:
        url = f"http://127.0.0.1:{port}"
        _wait(f"{url}/readyz" if ready else f"{url}/livez", process, log, seconds)
        yield url


@contextlib.contextmanager
def started_reference(log: Path) -> Iterator[str]:
    """Run benchmarks/support/reference_server.py for the duration of the context.

    Args:
        log: a file that receives stdout and stderr.

    Yields:
        The server's base URL.

    Raises:
        RuntimeError: The server exits or does not become ready in time.
    """
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.support.reference_server", "--port", str(port)]
    with _run_process(command, ROOT, os.environ, log) as process:
        url = f"http://127.0.0.1:{port}"
        _wait(f"{url}/readyz", process, log, _START_SECONDS)
        yield url


@contextlib.contextmanager
def _run_process(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that writes to `log` for the duration of the context."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def running_service(url: str | None = None) -> Iterator[str]:
    """Use the service at `url`, or run a new one on the demo set for the duration of the context.

    Args:
        url: base URL of a running service.

    Yields:
        The service's base URL.
    """
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
    # One client, since each reads the certificates anew, beside a process that is starting.
    with httpx.Client() as client:
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if client.get(url).status_code == httpx.codes.OK:
                    return
            time.sleep(0.1)
    tail = log.read_text(errors="replace")[-2000:]
    raise RuntimeError(f"{url} did not become ready:\n{tail}")
