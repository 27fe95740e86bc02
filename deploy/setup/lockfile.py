"""Parser of the lock files: packages, their hashes and their download sizes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVING = ROOT / "requirements.lock"
DEVELOPMENT = ROOT / "requirements-dev.lock"

# torch depends on these, including the CUDA libraries of its build. nvidia-ml-py is not among them:
# it is a dependency of BentoML, which counts GPUs with it.
_TORCH_FAMILY = re.compile(r"torch|torchvision|torchaudio|triton|cuda-[a-z]+|nvidia-(?!ml-py$).+")
# These import torchvision, and each torchvision build requires one torch build.
_TORCHVISION_USERS = re.compile(r"controlnet-aux|timm")
_DOWNLOAD = re.compile(r"^# download (\S+) (\d+) (\d+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Download:
    """Download size in bytes: of all packages of a lock, and of those outside the torch family."""

    total: int
    without_torch: int

    def line(self, platform: str) -> str:
        """Return the lock's comment that records this size."""
        return f"# download {platform} {self.total} {self.without_torch}"


def downloads(lock: str) -> dict[str, Download]:
    """Return the sizes recorded in a lock's comments, by platform (e.g. "linux-x86_64")."""
    return {
        platform: Download(int(total), int(without_torch))
        for platform, total, without_torch in _DOWNLOAD.findall(lock)
    }


def entries(lock: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the lines of each package, with hashes and without comments."""
    name, lines = "", ""
    for line in lock.splitlines(keepends=True):
        if line.startswith("#") or not line.strip():
            continue
        if not line[0].isspace():
            if lines:
                yield name, lines
            name, lines = _name(line), ""
        lines += line
    if lines:
        yield name, lines


def select(lock: str, accept: Callable[[str], bool]) -> str:
    """Return the part of a lock whose packages' normalized names `accept` accepts."""
    return "".join(lines for name, lines in entries(lock) if accept(name))


def without_torch(lock: str) -> str:
    """Return a lock without the torch family and the packages that need torchvision."""
    return select(lock, lambda name: not _belongs_to_torch(name))


def version_of(package: str, lock: str) -> str:
    """Return the version that a lock pins.

    Raises:
        KeyError: The lock does not have the package.
    """
    for name, lines in entries(lock):
        if name == package:
            return pinned(lines)[0]
    raise KeyError(package)


def pinned(lines: str) -> tuple[str, frozenset[str]]:
    """Return the version and the SHA-256 hashes that a package's lines pin."""
    version = re.split(r"[\s;\\]", lines.partition("==")[2], maxsplit=1)[0]
    return version, frozenset(re.findall(r"sha256:([0-9a-f]{64})", lines))


def digest(*files: Path) -> str:
    """Return the SHA-256 digest of the files' concatenated bytes, in hexadecimal."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def is_torch_family(name: str) -> bool:
    """Return whether a package is torch, or is built for one torch and installed with it."""
    return _TORCH_FAMILY.fullmatch(name) is not None


def _belongs_to_torch(name: str) -> bool:
    return is_torch_family(name) or _TORCHVISION_USERS.fullmatch(name) is not None


def _name(line: str) -> str:
    return re.split(r"[=\[ ;<>!~]", line, maxsplit=1)[0].strip().lower().replace("_", "-")
