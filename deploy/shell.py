"""Commands of other programs: printed before they run, loud when they fail."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Debian's package of each tool.
_TOOLS = {
    "buildah": "buildah",
    "podman": "podman",
    "runc": "runc",
    "debootstrap": "debootstrap",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "curl": "curl",
}
_CONTAINER_TOOLS = ("buildah", "podman", "runc", "debootstrap", "nsenter")
_TAIL = 4000


class ContainerTestError(RuntimeError):
    """The image or its container is not as it must be; the message says how."""


def say(text: str) -> None:
    """Tell what happens, at once, whatever stdout is."""
    print(text, flush=True)


def require_tools(tools: Sequence[str] = _CONTAINER_TOOLS) -> None:
    """Stop unless this can work here: on Debian, as root, with these tools.

    Raises:
        ContainerTestError: names the missing tools and the command that installs them.
    """
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        packages = " ".join(sorted({_TOOLS[tool] for tool in missing}))
        raise ContainerTestError(
            f"missing tools: {', '.join(missing)}. On Debian: apt-get install {packages}"
        )
    if os.geteuid() != 0:
        raise ContainerTestError("debootstrap and network namespaces need root")


def run(
    command: Sequence[str], log: Path | None = None, settings: Mapping[str, str] | None = None
) -> str:
    """Run a command to its end; returns what it wrote to stdout, "" with a `log`.

    Args:
        command: the program and its arguments.
        log: receives everything that it writes, for commands that write much.
        settings: environment variables on top of this process's.

    Raises:
        ContainerTestError: with the end of its output, where it fails.
    """
    say(f"$ {shlex.join(command)}{f'  > {log.relative_to(ROOT)}' if log else ''}")
    started = time.monotonic()
    environment = {**os.environ, **(settings or {})}
    if log is None:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        status, said, told = done.returncode, done.stdout, done.stdout + done.stderr
    else:
        with log.open("w") as output:
            status = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
            ).returncode
        said, told = "", log.read_text(errors="replace")
        say(f"  {time.monotonic() - started:.0f} s")
    if status != 0:
        raise ContainerTestError(f"exit status {status} of {shlex.join(command)}:\n{told[-_TAIL:]}")
    return said.strip()


def podman(*arguments: str) -> str:
    """Run podman, by runc: crun asks for limits and control groups that sandboxes refuse."""
    return run(["podman", "--runtime", "runc", *arguments])
