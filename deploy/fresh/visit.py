"""Steps of a new user on a fresh machine: clone, start, README's image request."""

from __future__ import annotations

import base64
import re
import socket
import subprocess
import time
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from deploy.container.checks import expect
from deploy.fresh.debian import Debian
from deploy.shell import ROOT, ContainerTestError, say

PROJECT = "experimance-controlnet"
SOURCE = "/mnt/source"
_SETUP_SECONDS = 1200
_FOLLOWS = 0.7
"""Least correlation of the depth map with the depth that the service estimates from its image.

Measured: about 0 for images of other maps, 0.93 for images that follow the map.
"""


class RegistrySilent(RuntimeError):
    """The package index does not answer, so the test cannot judge the project."""


def free_port() -> int:
    """Return a loopback TCP port without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def clone(debian: Debian, log: Path) -> Path:
    """Clone this checkout's commit inside; return the clone's path on the host."""
    command = f"git -c safe.directory=* clone --quiet {SOURCE} {PROJECT}"
    with debian.running(command, log) as process:
        status = process.wait()
    expect(status == 0, f"git clone ended with {status}: {_tail(log)}")
    return debian.root / "root" / PROJECT


def await_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> float:
    """Wait until the service is ready; return the seconds since the call.

    Args:
        process: the process of `make serve`.
        port: the service's port on the loopback interface.
        log: the log file of `process`.

    Raises:
        RegistrySilent: The setup reports that the package index does not answer.
        ContainerTestError: The process ended early, or the service is not ready in time.
    """
    started = time.monotonic()
    while process.poll() is None:
        if time.monotonic() - started > _SETUP_SECONDS:
            raise ContainerTestError(f"not ready after {_SETUP_SECONDS} s: {_tail(log)}")
        try:
            if httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == httpx.codes.OK:
                return time.monotonic() - started
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    if "The package index does not answer" in log.read_text(errors="replace"):
        raise RegistrySilent(_tail(log))
    raise ContainerTestError(
        f"it ended with {process.returncode} before it was ready: {_tail(log)}"
    )


def check_readme_picture(folder: Path, port: int) -> float:
    """Run README's curl command in `folder` and check its image.

    Args:
        folder: the clone on the host.
        port: the service's port on the loopback interface.

    Returns:
        Correlation in [-1, 1] of the depth map with the depth estimated from the image.

    Raises:
        ContainerTestError: The command fails, or the image does not follow the depth map.
    """
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^```sh\n(curl .+?)^```$", readme, re.MULTILINE | re.DOTALL)
    (file,) = re.findall(r"--output (\S+)", command)
    here = command.replace(":3000", f":{port}")
    done = subprocess.run(["/bin/sh", "-c", here], cwd=folder, capture_output=True, text=True)
    expect(done.returncode == 0, f"README's curl ended with {done.returncode}: {done.stderr}")
    body = {"image_b64": base64.b64encode((folder / file).read_bytes()).decode()}
    headers = {"Accept": "image/png"}
    answer = httpx.post(
        f"http://127.0.0.1:{port}/estimate_depth", json=body, headers=headers, timeout=60
    )
    (folder / "read.png").write_bytes(answer.raise_for_status().content)
    follows = correlation(folder / "docs" / "img" / "depth.png", folder / "read.png")
    expect(follows >= _FOLLOWS, f"the picture does not follow the depth map: {follows:.2f}")
    say(f"  {file}: correlation {follows:.2f} with the depth map")
    return round(follows, 3)


def correlation(first: Path, second: Path) -> float:
    """Return the correlation of two greyscale images, at the size of the second."""
    with Image.open(second) as read:
        second_values = np.asarray(read.convert("L"), dtype=np.float64)
    with Image.open(first) as map_:
        size = (second_values.shape[1], second_values.shape[0])
        first_values = np.asarray(map_.convert("L").resize(size), dtype=np.float64)
    return float(np.corrcoef(first_values.ravel(), second_values.ravel())[0, 1])


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]
