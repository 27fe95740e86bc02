"""Write and check the lock files with uv.

    python -m deploy.supply.lock [--upgrade]    resolve pyproject.toml; keep versions by default
    python -m deploy.supply.lock --check        resolve the locks for every Python and platform

A lock is universal: one file for all Pythons and platforms, by environment markers. It begins with
the download size in bytes for each platform.
"""

from __future__ import annotations

import argparse
import functools
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from deploy.setup.lockfile import (
    DEVELOPMENT,
    ROOT,
    SERVING,
    Download,
    entries,
    is_torch_family,
    pinned,
)
from deploy.setup.pip_settings import read_pip_settings, uv_environment

PYTHONS = ("3.11.2", "3.12", "3.13", "3.14")
PLATFORMS = {
    "linux-x86_64": "x86_64-manylinux_2_28",
    "linux-aarch64": "aarch64-manylinux_2_28",
    "macos-arm64": "aarch64-apple-darwin",
}
"""uv's platform names, by deploy.setup's names."""

_EXTRAS = ("dev", "docs", "estimators")
_TITLES = {
    SERVING: "what serving and the client need",
    DEVELOPMENT: f"what development needs beside that: the extras {', '.join(_EXTRAS)}",
}
_TIMEOUT_SECONDS = 240
_PIPS = ("UV_DEFAULT_INDEX", "SSL_CERT_FILE")


class LockError(RuntimeError):
    """A failure of uv, or a mismatch between a lock and the registry."""


@dataclass(frozen=True, slots=True)
class Target:
    """A Python version and a platform for which a lock must resolve."""

    python: str
    platform: str

    def __str__(self) -> str:
        return f"Python {self.python} on {self.platform}"

    @property
    def options(self) -> list[str]:
        """Options of uv for this target."""
        # Any interpreter will do, since nothing is built: uv need not query those on PATH.
        interpreter = ["--python", sys.executable]
        versions = ["--python-version", self.python, "--python-platform", PLATFORMS[self.platform]]
        return [*interpreter, *versions]


TARGETS = [Target(*each) for each in product(PYTHONS, PLATFORMS)]


def resolve(lock: Path, target: Target) -> Download:
    """Resolve a lock against the registry, as an installation would; return the download size.

    Raises:
        LockError: The lock lacks a package, or one of its files is yanked, changed or missing.
    """
    accepted = {}
    for name, lines in entries(lock.read_text(encoding="utf-8")):
        version, hashes = pinned(lines)
        accepted[f"{name}=={version}"] = hashes
    compile_ = ["pip", "compile", "--quiet", "--format", "pylock.toml", "--only-binary", ":all:"]
    listed = tomllib.loads(_uv(*compile_, *target.options, str(lock)))
    total = without_torch = 0
    for package in listed["packages"]:
        name = f"{package['name']}=={package['version']}"
        if name not in accepted:
            raise LockError(f"{name} is needed, and not in the lock")
        wheels = [
            wheel for wheel in package["wheels"] if wheel["hashes"]["sha256"] in accepted[name]
        ]
        if not wheels:
            raise LockError(f"{name}: the registry has no file with a hash of the lock's")
        size = min(wheel["size"] for wheel in wheels)
        total += size
        without_torch += 0 if is_torch_family(package["name"]) else size
    return Download(total, without_torch)


def write(upgrade: bool) -> None:
    """Resolve pyproject.toml into both locks.

    Args:
        upgrade: use the newest versions instead of the locked ones.

    Raises:
        LockError: The requirements have no solution.
    """
    compile_ = ["pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-header"]
    compile_ += ["--no-annotate", "--python-version", PYTHONS[0]]
    compile_ += ["--upgrade"] if upgrade else []
    extras = [word for extra in _EXTRAS for word in ("--extra", extra)]
    projects = [str(ROOT / "pyproject.toml"), str(ROOT / "client" / "pyproject.toml")]
    for lock, more in ((SERVING, []), (DEVELOPMENT, [*extras, "--constraint", str(SERVING)])):
        _uv(*compile_, *projects, *more, "--output-file", str(lock))
    for lock, title in _TITLES.items():
        header = [f"# Written by `make lock`: {title}."]
        header += [size.line(platform) for platform, size in _sizes(lock)]
        text = lock.read_text(encoding="utf-8")
        lock.write_text("\n".join(header) + "\n" + text, encoding="utf-8")


def _sizes(lock: Path) -> Iterator[tuple[str, Download]]:
    """Yield each platform with its largest download size over all Pythons."""
    with ThreadPoolExecutor() as pool:
        sizes = list(pool.map(lambda target: resolve(lock, target), TARGETS))
    for platform in PLATFORMS:
        of_platform = [
            size for size, target in zip(sizes, TARGETS, strict=True) if target.platform == platform
        ]
        yield platform, max(of_platform, key=lambda size: size.total)


def check() -> list[str]:
    """Return the faults of every lock and target: yanked, changed or missing files."""
    with ThreadPoolExecutor() as pool:
        return [fault for fault in pool.map(_fault, *zip(*_cases(), strict=True)) if fault]


def _cases() -> list[tuple[Path, Target]]:
    return list(product((SERVING, DEVELOPMENT), TARGETS))


def _fault(lock: Path, target: Target) -> str:
    try:
        resolve(lock, target)
    except LockError as error:
        return f"{lock.name}, {target}: {error}"
    return ""


def _uv(*arguments: str) -> str:
    command = [sys.executable, "-m", "uv", *arguments]
    try:
        done = subprocess.run(
            command,
            env=_environment(),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise LockError(f"timed out after {_TIMEOUT_SECONDS} s") from error
    if done.returncode != 0 or "is yanked" in done.stderr:
        raise LockError(done.stderr.strip())
    return done.stdout


@functools.cache
def _environment() -> dict[str, str]:
    settings = uv_environment(read_pip_settings(sys.executable), os.environ)
    return {
        **os.environ,
        # Local folders are ignored: the lock must resolve from the registry alone.
        **{name: settings[name] for name in _PIPS if name in settings},
        # uv's default macOS is older than torch's minimum. Resolving needs no download of Pythons.
        "MACOSX_DEPLOYMENT_TARGET": "14.0",
        "UV_PYTHON_DOWNLOADS": "never",
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the locks; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.supply.lock", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, and change nothing")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    options = parser.parse_args(arguments)
    try:
        if not options.check:
            write(options.upgrade)
            return 0
    except LockError as error:
        print(error, file=sys.stderr)
        return 1
    faults = check()
    print("\n".join(faults) or f"both locks resolve for {len(TARGETS)} Pythons and platforms")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
