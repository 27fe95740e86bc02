"""Checks of this machine: its platform and its Python's modules."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import sys

from deploy.setup.problems import SetupError

_GLIBC = (2, 28)
_MACOS = 14


def platform_name() -> str:
    """Return `linux-x86_64`, `linux-aarch64` or `macos-arm64`.

    Raises:
        SetupError: torch has no builds for this machine; the message has the remedy.
    """
    machine = platform.machine().lower()
    if sys.platform == "darwin":
        if machine != "arm64":
            raise SetupError(
                "torch has no builds for Intel Macs, nor for a Python that runs under Rosetta: "
                "use an arm64 Python on Apple silicon, or a Linux machine."
            )
        if int(platform.mac_ver()[0].partition(".")[0] or 0) < _MACOS:
            raise SetupError(f"torch needs macOS {_MACOS} or newer: update the system.")
        return "macos-arm64"
    if sys.platform != "linux":
        raise SetupError("Linux or macOS is needed; on Windows, use Debian or Ubuntu in WSL 2.")
    if machine not in {"x86_64", "aarch64"}:
        raise SetupError(f"torch has no builds for {machine}: use x86-64 or 64-bit Arm.")
    library, version = platform.libc_ver()
    if library != "glibc" or _numbers(version) < _GLIBC:
        raise SetupError(
            f"torch needs glibc {'.'.join(map(str, _GLIBC))} or newer, and this Python uses "
            f"{library or 'another C library'} {version}: use Debian 12 or newer, or a container."
        )
    return f"linux-{machine}"


def require_venv() -> None:
    """Check that this Python can create an environment with pip.

    Raises:
        SetupError: A module is missing; the message names its package.
    """
    if all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
        return
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    command = f"dnf install python{version}"
    if os.path.exists("/etc/debian_version"):  # noqa: PTH110
        command = f"apt install python{version}-venv"
    raise SetupError(f"This Python has no module venv: {command}, then run the command again.")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))
