"""Create or update the environment of the service, optionally with the development packages.

python -m deploy.setup [--development] [--torch default|cpu] [--torch-index INDEX]

Prints nothing if the environment is up to date.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from pathlib import Path

from deploy.setup import lockfile
from deploy.setup.environment import Contents, Environment
from deploy.setup.host import platform_name
from deploy.setup.installer import PYTORCH_PAGE, Installer
from deploy.setup.problems import SetupError

FOLDER = lockfile.ROOT / ".venv"
"""Folder of the environment."""

_CLIENT = lockfile.ROOT / "client"
_GIGABYTE = 1e9
# 3.1 GB of wheels take 5.9 GB unpacked (measured, CUDA set); the rest is a margin.
_UNPACKED = 2.5


def main(arguments: list[str] | None = None) -> int:
    """Create or update the environment; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.setup", description=__doc__)
    parser.add_argument("--development", action="store_true", help="tests and documents too")
    parser.add_argument("--torch", default="", help="default or cpu; empty: as it is installed")
    parser.add_argument("--torch-index", default="", help="where CPU builds of torch are")
    options = parser.parse_args(arguments)
    try:
        _set_up(options)
    except SetupError as error:
        print(f"No environment: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The same command starts again with what was downloaded.")
        return 130
    return 0


def _set_up(options: argparse.Namespace) -> None:
    environment = Environment(FOLDER)
    present = environment.read()
    wanted = _wanted(options, present)
    if present is not None and present.covers(wanted):
        return
    machine = platform_name()
    started = time.monotonic()
    is_cpu = wanted.torch == "cpu"
    lock_file = lockfile.DEVELOPMENT if wanted.development else lockfile.SERVING
    text = lock_file.read_text(encoding="utf-8")
    lock = lockfile.without_torch(text) if is_cpu else text
    _announce(text, machine, is_cpu, wanted.torch_index)
    environment.open_for_changes(keep=present is not None and present.shares_torch(wanted))
    installer = Installer(environment)
    _require_space(text, machine, is_cpu, installer.missing(lock))
    installer.install_lock(lock)
    if is_cpu:
        installer.install_cpu_torch(wanted.torch_index)
    installer.install_project(_CLIENT)
    environment.write(wanted)
    size = _size(FOLDER) / _GIGABYTE
    print(
        f"The environment is there: {size:.1f} GB, {time.monotonic() - started:.0f} s.", flush=True
    )


def _wanted(options: argparse.Namespace, present: Contents | None) -> Contents:
    torch = options.torch or (present.torch if present else "default")
    index = options.torch_index or (present.torch_index if present else "")
    if torch not in {"default", "cpu"}:
        raise SetupError(f"TORCH: {torch} is neither default nor cpu.")
    if sys.platform == "darwin":
        # On macOS the package index's default build is the CPU build.
        torch = "default"
    if torch == "cpu" and not index:
        raise SetupError(
            "TORCH=cpu needs TORCH_INDEX=, the index or the folder that CPU builds of torch come "
            f"from: {PYTORCH_PAGE} names PyTorch's own."
        )
    had_development = present is not None and present.development
    return Contents(
        serving=lockfile.digest(lockfile.SERVING, _CLIENT / "pyproject.toml"),
        development=(
            lockfile.digest(lockfile.DEVELOPMENT) if options.development or had_development else ""
        ),
        python=platform.python_version(),
        torch=torch,
        torch_index=index if torch == "cpu" else "",
    )


def _announce(lock: str, machine: str, is_cpu: bool, index: str) -> None:
    size = lockfile.downloads(lock)[machine]
    count = sum(1 for _ in lockfile.entries(lock))
    if is_cpu:
        torch = f"torch for the CPU from {index}"
        amount = f"{size.without_torch / _GIGABYTE:.1f} GB and torch"
    else:
        build = "CPU and MPS" if machine.startswith("macos") else "CUDA"
        torch = f"torch {lockfile.version_of('torch', lock)} ({build})"
        amount = f"{size.total / _GIGABYTE:.1f} GB"
    print(
        f"Making {FOLDER.name} with Python {platform.python_version()} ({sys.executable}) and "
        f"{torch}:\n{count} packages, at most {amount} to download.",
        flush=True,
    )
    if machine.startswith("linux") and not is_cpu and not Path("/dev/nvidiactl").exists():
        print("Without a GPU, TORCH=cpu needs a fifth of the disk: see README.md.", flush=True)


def _require_space(lock: str, machine: str, is_cpu: bool, missing: int) -> None:
    """Raise SetupError before the download if the unpacked packages would not fit on the disk."""
    size = lockfile.downloads(lock)[machine]
    needed = (size.without_torch if is_cpu else size.total) * _UNPACKED
    parts = os.statvfs(FOLDER)
    free = parts.f_bavail * parts.f_frsize
    if missing and free < needed:
        raise SetupError(
            f"{needed / _GIGABYTE:.1f} GB of disk are needed, and {free / _GIGABYTE:.1f} GB are "
            "free: free some space, then run the command again."
        )


def _size(folder: Path) -> int:
    return sum(entry.lstat().st_size for entry in folder.rglob("*"))


if __name__ == "__main__":
    sys.exit(main())
