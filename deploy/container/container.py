"""A container without root, capabilities and network, and a way to talk to it."""

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
"""Nothing but /tmp, which is memory, can be written to."""


@dataclass(frozen=True, slots=True)
class Container:
    """A running container."""

    name: str
    pid: int

    def processes(self) -> list[int]:
        """All its processes, by their numbers on this machine."""
        return [int(line) for line in podman("top", self.name, "hpid").splitlines()[1:]]

    def inspect(self, what: str) -> Any:
        """A part of what podman knows about it, e.g. `.State.ExitCode`."""
        return json.loads(podman("inspect", "--format", f"{{{{json {what}}}}}", self.name))

    def changes(self) -> list[str]:
        """What differs from the image: `A`, `C` or `D`, and the path."""
        return podman("diff", self.name).splitlines()

    def run_in_netns(self, *arguments: str) -> dict[str, Any]:
        """Run a command of the visitor in its network namespace; returns the answer."""
        answer: dict[str, Any] = json.loads(run(self._visitor(*arguments)))
        return answer

    @contextlib.contextmanager
    def slow_request(self, url: str = URL) -> Iterator[subprocess.Popen[str]]:
        """A visitor whose request is being worked on."""
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
        """SIGTERM, as a machine that shuts down sends it; returns the exit status."""
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
    """A container of the image without network; what it said lies in `log` afterwards.

    Args:
        image: its name.
        log: receives what the container writes.
        options: of `podman run`; by default it has no capabilities and gains none.
        name: the container's; one of that name is removed first.
    """
    _remove(name)
    podman(
        *("run", "--detach", "--name", name, "--network", "none"),
        *options,
        # podman's own limits are higher than a sandbox lets root set.
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
    """The network namespace of a process."""
    return str(Path(f"/proc/{pid}/ns/net").readlink())


def _remove(name: str) -> None:
    command = ["podman", "rm", "--force", "--ignore", "--time", "5", name]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
