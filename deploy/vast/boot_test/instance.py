"""Instance of the boot test: a container of Debian's packages with this machine's environment."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from deploy.container.base_image import base_image
from deploy.container.container import Container, run_container
from deploy.shell import ROOT, ContainerTestError, podman, run, say
from deploy.vast.build_context import HERE, write_build_context
from deploy.vast.template import load_template

IMAGE = "localhost/experimance-vast-test"
PORT = 5001
URL = f"http://127.0.0.1:{PORT}"
LOG = "/var/log/portal/experimance.log"
_NAME = "experimance-vast-test"
_PACKAGES = ("supervisor", "logrotate", "procps")


class Machine:
    """A running instance."""

    def __init__(self, container: Container) -> None:
        self.container = container

    def shell(self, script: str) -> str:
        """Return the stdout of a shell script on the instance, whatever its exit status."""
        command = ["podman", "--runtime", "runc", "exec", self.container.name]
        done = subprocess.run([*command, "bash", "-c", script], capture_output=True, text=True)
        return done.stdout.strip()

    def state(self, program: str) -> str:
        """Return supervisor's state of a program, e.g. RUNNING."""
        words = self.shell(f"supervisorctl status {program}").split()
        return words[1] if len(words) > 1 else "unknown"

    def read(self, file: str) -> str:
        """Return the text of a file on the instance; empty if it is missing."""
        return self.shell(f"cat {file} 2>/dev/null")

    def get(self, path: str) -> int:
        """Return the status of a GET request to the service; 0 without a listener."""
        output = self.shell(
            f"exec 3<>/dev/tcp/127.0.0.1/{PORT} && printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' >&3"
            " && timeout 5 head -n 1 <&3"
        ).split()
        return int(output[1]) if len(output) > 1 else 0

    def serving(self) -> list[int]:
        """Return the process ids of the service, in the instance's PID namespace."""
        pids = self.shell("pgrep -f '[/]venv/main/bin/python'")
        return [int(pid) for pid in pids.split()]

    def await_that(self, what: str, holds: Callable[[], bool], seconds: float = 60) -> float:
        """Wait until a condition holds; return the seconds.

        Args:
            what: a description of the condition.
            holds: the condition.
            seconds: the timeout.

        Raises:
            ContainerTestError: The timeout has expired.
        """
        began = time.monotonic()
        while not holds():
            if time.monotonic() - began > seconds:
                raise ContainerTestError(f"not in {seconds:.0f} s: {what}")
            time.sleep(0.3)
        return time.monotonic() - began


def test_image(bento: str, catalog: str, folder: Path) -> None:
    """Build `IMAGE` from the real image's context, on a base of Debian's packages.

    Args:
        bento: tag of the Bento.
        catalog: the image's default catalog.
        folder: the folder of the Bento home and the build.
    """
    context = folder / "context"
    write_build_context(folder / "bentoml", bento, catalog, "full", context)
    shutil.copytree(HERE / "boot_test" / "base", context / "base")
    shutil.copy(HERE / "boot_test" / "Dockerfile", context / "Dockerfile")
    # The mounted Python of this machine needs the base's glibc and OpenSSL to match.
    base = base_image(folder, _PACKAGES)
    build = ["buildah", "build", "--isolation", "chroot", "--build-arg", f"BASE={base}"]
    run([*build, "--tag", IMAGE, str(context)], folder / "build.log")


@contextlib.contextmanager
def running(catalog: str, log: Path) -> Iterator[Machine]:
    """Run an instance without network, as in the template's entry point mode.

    Args:
        catalog: the catalog to serve.
        log: a file that receives the instance's output.

    Yields:
        The running instance.
    """
    variables = {**load_template().variables("entrypoint"), "CATALOG": catalog}
    options = [word for item in variables.items() for word in ("--env", "=".join(item))]
    mounts = {
        sys.prefix: "/venv/main",
        sys.base_prefix: sys.base_prefix,
        str(worker_environment()): "/opt/experimance/worker-venv",
    }
    if sys.base_prefix.startswith("/usr"):
        del mounts[sys.base_prefix]
    for source, target in mounts.items():
        options += ["--volume", f"{os.path.realpath(source)}:{target}:ro"]
        say(f"  mounted read-only, not installed: {target}")
    with run_container(IMAGE, log, options, _NAME) as container:
        yield Machine(container)


def remove_images(folder: Path) -> None:
    """Remove the test's image and folder, but keep the base image."""
    podman("image", "rm", "--force", IMAGE)
    shutil.rmtree(folder)


_REQUIREMENTS = HERE / "worker-requirements.txt"


def worker_environment() -> Path:
    """Return the worker's environment; create it once per requirements file and Python."""
    pinned = hashlib.sha256(_REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = ROOT / "build" / f"worker-venv-{pinned}"
    done = folder / ".installed"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([folder / "bin" / "python", *install, "-r", _REQUIREMENTS], check=True)
        done.touch()
    return folder
