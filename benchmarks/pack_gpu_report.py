"""Pack what the GPU report needs on a bare machine with CUDA: sources and wheels, in one file.

    python -m benchmarks.pack_gpu_report [--output build/gpu-report.tar.gz] [--python 3.12]

The machine needs Linux on x86-64, that Python, and torch 2.11 or newer. There:

    tar -xzf gpu-report.tar.gz && gpu-report/run.sh --output report.md

The demo's networks and the packages of the service (BentoML, Google's client) stay out.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.support.report import finish
from testing.server import ROOT

MAX_BYTES = 60_000_000
FOLDERS = ("benchmarks", "common", "deploy", "models", "runners", "testing")
_KINDS = {".py", ".toml", ".json", ".txt"}
# What the report's modules import themselves; torch's own requirements are on the machine.
PACKAGES = (
    "compel", "diffusers", "msgspec", "numpy", "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry-sdk", "peft", "pillow", "prometheus-client", "psutil", "pydantic",
    "pydantic-settings", "safetensors", "structlog", "transformers",
)  # fmt: skip
# The hub's client requires it for downloads, of which the report makes none.
_UNUSED = {"hf-xet"}
_RUN = """#!/bin/sh
# Runs the report with a Python that has torch: python3, or the one that PYTHON names.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
if [ ! -d "$here/packages" ]; then
    # A wheel is a zip file of its modules, and pip may be absent.
    for wheel in "$here"/wheels/*.whl; do
        "$python" -m zipfile -e "$wheel" "$here/packages.new"
    done
    mv "$here/packages.new" "$here/packages"
fi
PYTHONPATH="$here/source:$here/packages" exec "$python" -m benchmarks.gpu_report "$@"
"""


def list_sources() -> Iterator[Path]:
    """Yield the source files, relative to the repository, without the demo's networks."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            is_source = path.suffix in _KINDS and "__pycache__" not in path.parts
            if path.is_file() and is_source:
                yield path.relative_to(ROOT)


def list_packages() -> dict[str, str]:
    """Return the versions of the packages, and of what they require, without torch's own."""
    found = required_packages(PACKAGES) - required_packages(["torch"]) - _UNUSED
    return {name: importlib.metadata.version(name) for name in sorted(found)}


def required_packages(names: Iterable[str]) -> set[str]:
    """Return packages and their requirements, transitively, as far as they are installed."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        for requirement in map(Requirement, lines):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found


def download_wheels(folder: Path, python: str) -> None:
    """Download the packages' wheels for Linux on x86-64.

    Args:
        folder: the target folder.
        python: version of Python, such as 3.12.

    Raises:
        subprocess.CalledProcessError: a package has no such wheel.
    """
    command = [
        sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check",
        "--no-deps", "--only-binary", ":all:", "--python-version", python, "--dest", str(folder),
        *(f"--platform=manylinux{tag}_x86_64" for tag in ("2014", "_2_17", "_2_28", "_2_34")),
        *(f"{name}=={version}" for name, version in list_packages().items()),
    ]  # fmt: skip
    subprocess.run(command, check=True)


def pack(output: Path, python: str) -> int:
    """Write the archive; return its size in bytes.

    Args:
        output: the archive, a .tar.gz.
        python: version of the machine's Python.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, tarfile.open(output, "w:gz") as archive:
        folder = Path(name)
        download_wheels(folder / "wheels", python)
        archive.add(folder / "wheels", "gpu-report/wheels")
        for source in list_sources():
            archive.add(ROOT / source, f"gpu-report/source/{source}")
        script = folder / "run.sh"
        script.write_text(_RUN, encoding="utf-8")
        script.chmod(0o755)
        archive.add(script, "gpu-report/run.sh")
    return output.stat().st_size


def main() -> None:
    """Pack, and finish with the size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "gpu-report.tar.gz")
    parser.add_argument("--python", default="3.12", help="of the machine: 3.11 or 3.12")
    options = parser.parse_args()
    size = pack(options.output, options.python)
    finish(size, MAX_BYTES, size <= MAX_BYTES, path=str(options.output.resolve()))


if __name__ == "__main__":
    main()
