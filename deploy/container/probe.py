"""Client and isolation probe: a program of this machine run in the container's network namespace.

python -m deploy.container.probe isolation HOST PORT | paint URL FILE PID | linger URL
"""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

_READY_SECONDS = 300
_PICTURE_SECONDS = 300
WIDTH, HEIGHT = 320, 256


def isolation(host: str, port: str) -> dict[str, Any]:
    """Return the network interfaces, the routes, and the result of a connection to `host`."""
    ipv4 = [line.split()[0] for line in _lines("/proc/self/net/route")[1:]]
    ipv6 = [line.split()[-1] for line in _lines("/proc/self/net/ipv6_route")]
    return {
        "interfaces": [name for _, name in socket.if_nameindex()],
        "routes": sorted({*ipv4, *ipv6}),
        "connection": _connection(host, int(port)),
    }


def paint(url: str, file: str, pid: str) -> dict[str, Any]:
    """Wait until the service is ready, then save one generated image.

    Args:
        url: base URL of the service.
        file: path of the PNG file to write.
        pid: process id of the service; waiting stops when the process ends.

    Returns:
        The variants, and the seconds until readiness and for the image.
    """
    started = time.monotonic()
    _wait_until_ready(url, Path("/proc", pid))
    ready = time.monotonic()
    models = httpx.get(f"{url}/models").raise_for_status().json()["available_models"]
    body = _request(width=WIDTH, height=HEIGHT, seed=7)
    headers = {"Accept": "image/png"}
    answer = httpx.post(f"{url}/generate", json=body, headers=headers, timeout=_PICTURE_SECONDS)
    Path(file).write_bytes(answer.raise_for_status().content)
    return {
        "models": models,
        "ready_seconds": round(ready - started, 1),
        "picture_seconds": round(time.monotonic() - ready, 1),
    }


def linger(url: str) -> dict[str, Any]:
    """Request an image, print `running` once generation has started, and wait for the result."""
    with ThreadPoolExecutor(1) as pool:
        body = _request(steps=30)
        answer = pool.submit(httpx.post, f"{url}/generate", json=body, timeout=_PICTURE_SECONDS)
        while not answer.done():
            if httpx.get(f"{url}/healthcheck").json()["queue"]["running"]:
                print("running", flush=True)
                break
            time.sleep(0.02)
        return {"status": answer.result().status_code}


def main(arguments: list[str]) -> int:
    """Run one command and print its result as JSON."""
    commands: dict[str, Callable[..., dict[str, Any]]] = {
        "isolation": isolation,
        "paint": paint,
        "linger": linger,
    }
    command, *rest = arguments
    print(json.dumps(commands[command](*rest)))
    return 0


def _request(**fields: Any) -> dict[str, Any]:
    return {"prompt": "aerial photography, untouched wilderness", "mock_depth": True, **fields}


def _wait_until_ready(url: str, process: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline and process.exists():
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz").status_code == httpx.codes.OK:
                return
        time.sleep(0.2)
    ending = f"not ready after {_READY_SECONDS} s" if process.exists() else "it ended at its start"
    raise SystemExit(ending)


def _connection(host: str, port: int) -> str:
    try:
        with socket.create_connection((host, port), timeout=5):
            return "made"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))


def _lines(file: str) -> list[str]:
    path = Path(file)
    return path.read_text().splitlines() if path.exists() else []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
