"""A base image built from Debian's packages, for machines without a container registry."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from deploy.shell import ContainerTestError, podman, run, say

_SUITE = "bookworm"
_PYTHON = (3, 11)
# debootstrap copies these from the host, so they are emptied.
_COPIED = ("etc/resolv.conf", "etc/hostname")
_PACKAGES = ("python3", "python3-venv", "python3-pip", "ca-certificates")


def base_image(folder: Path, more: tuple[str, ...] = ()) -> str:
    """Return the name of the base image; build it unless podman has it.

    Args:
        folder: a folder for temporary files.
        more: additional Debian packages.

    Raises:
        ContainerTestError: This Python's version differs from Debian's, and a Bento requires the
            Python version that built it.
    """
    if sys.version_info[:2] != _PYTHON:
        wanted = ".".join(map(str, _PYTHON))
        raise ContainerTestError(
            f"Debian {_SUITE} has Python {wanted}, and a Bento asks for the Python that built it: "
            f"make clean setup PYTHON=python{wanted}"
        )
    packages = _PACKAGES + more
    recipe = hashlib.sha256(f"{_SUITE} {packages} {_COPIED}".encode()).hexdigest()[:12]
    name = f"localhost/experimance-base:{recipe}"
    if _exists(name):
        say(f"base image {name} is there")
        return name
    tree, archive = folder / "base", folder / "base.tar"
    shutil.rmtree(tree, ignore_errors=True)
    try:
        include = f"--include={','.join(packages)}"
        debootstrap = ["debootstrap", "--variant=minbase", include, _SUITE, str(tree)]
        run(debootstrap, log=folder / "debootstrap.log")
        for copied in _COPIED:
            (tree / copied).write_text("")
        run(["tar", "--directory", str(tree), "--create", "--file", str(archive), "."])
        podman("import", str(archive), name)
    finally:
        shutil.rmtree(tree, ignore_errors=True)
        archive.unlink(missing_ok=True)
    return name


def _exists(image: str) -> bool:
    command = ["podman", "image", "exists", image]
    return subprocess.run(command, check=False).returncode == 0
