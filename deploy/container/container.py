"""A container without root, capabilities and network, and access to it from this machine."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.shell import ROOT, ContainerTestError, podman, run

URL = "http://127.0.0.1:3000"
_NAME = "experimance-container-test"
_GRACE_SECONDS = 60
_ALONE = ("--cap-drop", "all", "--security-opt", "no-new-privileges")
READ_ONLY = (*_ALONE, "--read-only", "--env", "BENTOML_HOME=/tmp/bentoml")
"""Only /tmp is writable, and it is a tmpfs."""


@dataclass(frozen=True, slots=True)
class Container:
    """A running container."""

    name: str
    pid: int

    def processes(self) -> list[int]:
        """Return the process ids of the container, in this machine's PID namespace."""
        return [int(line) for line in podman("top", self.name, "hpid").splitlines()[1:]]

    def inspect(self, what: str) -> Any:
        """Return a field of podman's description of the container, e.g. `.State.ExitCode`."""
        return json.loads(podman("inspect", "--format", f"{{{{json {what}}}}}", self.name))

    def changes(self) -> list[str]:
        """Return the differences from the image: `A`, `C` or `D`, and the path."""
        return podman("diff", self.name).splitlines()

    def run_in_netns(self, *arguments: str) -> dict[str, Any]:
        """Run a command of `deploy.container.probe` in the network namespace; return its result."""
        answer: dict[str, Any] = json.loads(run(self._visitor(*arguments)))
        return answer

    @contextlib.contextmanager
    def slow_request(self, url: str = URL) -> Iterator[subprocess.Popen[str]]:
        """Send a slow request from the container's network namespace.

        Args:
            url: base URL of the service, inside.

        Yields:
            The client's process, while its request is running.

        Raises:
            ContainerTestError: The request did not start.
        """
        command = self._visitor("linger", url)
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as visitor:
            try:
                assert visitor.stdout is not None
                if visitor.stdout.readline().strip() != "running":
                    raise ContainerTestError("the request before the stop did not start")
                yield visitor
            finally:
                visitor.kill()

    def stop(self) -> int:
        """Stop the container with SIGTERM, as at a shutdown; return the exit status."""
        podman("stop", "--time", str(_GRACE_SECONDS), self.name)
        status: int = self.inspect(".State.ExitCode")
        return status

    def _visitor(self, *arguments: str) -> list[str]:
        enter = ["nsenter", "--target", str(self.pid), "--net", "--"]
        return [*enter, sys.executable, "-m", "deploy.container.probe", *arguments]


@contextlib.contextmanager
def run_container(
    image: str, log: Path, options: Sequence[str] = _ALONE, name: str = _NAME
) -> Iterator[Container]:
    """Run a container of the image without network.

    Args:
        image: name of the image.
        log: a file that receives the container's output when the context exits.
        options: options of `podman run`; the default drops all capabilities and forbids new ones.
        name: name of the container; an existing one of that name is removed first.

    Yields:
        The running container.
    """
    _remove(name)
    podman(
        *("run", "--detach", "--name", name, "--network", "none"),
        *options,
        # podman's default limits exceed those that a sandbox lets root set.
        *("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096"),
        image,
    )
    try:
        yield Container(name, int(podman("inspect", "--format", "{{.State.Pid}}", name)))
    finally:
        with log.open("w") as output:
            command = ["podman", "logs", name]
            subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False)
        _remove(name)


def network_namespace(pid: int) -> str:
    """Return the identifier of a process's network namespace."""
    return str(Path(f"/proc/{pid}/ns/net").readlink())


def _remove(name: str) -> None:
    command = ["podman", "rm", "--force", "--ignore", "--time", "5", name]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
