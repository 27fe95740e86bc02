"""Subprocess helpers: print each command before it runs and raise if it fails."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Debian package by tool.
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
    """A failed check of an image or a container; the message names the check."""


def say(text: str) -> None:
    """Print a line and flush stdout, so that redirected output appears at once."""
    print(text, flush=True)


def require_tools(tools: Sequence[str] = _CONTAINER_TOOLS) -> None:
    """Check the preconditions of the tests: the tools on PATH and root privileges.

    Args:
        tools: names of executables.

    Raises:
        ContainerTestError: A tool is missing, or the process is not root. For missing tools the
            message has the command that installs them.
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
    """Run a command to its end; return its stripped stdout, or "" with a `log`.

    Args:
        command: the program and its arguments.
        log: a file that receives stdout and stderr, for commands with much output.
        settings: environment variables in addition to those of this process.

    Raises:
        ContainerTestError: The command fails; the message has the end of its output.
    """
    say(f"$ {shlex.join(command)}{f'  > {log.relative_to(ROOT)}' if log else ''}")
    started = time.monotonic()
    environment = {**os.environ, **(settings or {})}
    if log is None:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        status, stdout, text = done.returncode, done.stdout, done.stdout + done.stderr
    else:
        with log.open("w") as output:
            status = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
            ).returncode
        stdout, text = "", log.read_text(errors="replace")
        say(f"  {time.monotonic() - started:.0f} s")
    if status != 0:
        raise ContainerTestError(f"exit status {status} of {shlex.join(command)}:\n{text[-_TAIL:]}")
    return stdout.strip()


def podman(*arguments: str) -> str:
    """Run podman with runc, because crun requests limits and cgroups that sandboxes refuse."""
    return run(["podman", "--runtime", "runc", *arguments])
