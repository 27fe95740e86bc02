"""Read the lock files: packages, their hashes, and the bytes that they take to download."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVING = ROOT / "requirements.lock"
DEVELOPMENT = ROOT / "requirements-dev.lock"

# torch brings these, and with them the CUDA that it was built for. nvidia-ml-py is no part of it:
# BentoML counts GPUs with it.
_TORCH_FAMILY = re.compile(r"torch|torchvision|torchaudio|triton|cuda-[a-z]+|nvidia-(?!ml-py$).+")
# They import torchvision, whose builds fit one build of torch each.
_TORCHVISION_USERS = re.compile(r"controlnet-aux|timm")
_DOWNLOAD = re.compile(r"^# download (\S+) (\d+) (\d+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Download:
    """Bytes of all packages of a lock, and of those that are not torch's own."""

    total: int
    without_torch: int

    def line(self, platform: str) -> str:
        """Return the comment that records it in a lock."""
        return f"# download {platform} {self.total} {self.without_torch}"


def downloads(lock: str) -> dict[str, Download]:
    """Return what a lock's comments say of its size, by platform ("linux-x86_64")."""
    return {
        platform: Download(int(total), int(without_torch))
        for platform, total, without_torch in _DOWNLOAD.findall(lock)
    }


def entries(lock: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the lines of each package, hashes included; comments are skipped."""
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
    """Return the part of a lock whose packages' normalized names `accept` is true for."""
    return "".join(lines for name, lines in entries(lock) if accept(name))


def without_torch(lock: str) -> str:
    """Return a lock without torch, what comes with it, and what needs torchvision."""
    return select(lock, lambda name: not _belongs_to_torch(name))


def version_of(package: str, lock: str) -> str:
    """Return the version that a lock pins.

    Raises:
        KeyError: the lock does not have the package.
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
    """Return the SHA-256 of files' bytes, as hexadecimal digits."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def is_torch_family(name: str) -> bool:
    """Tell whether a package is torch, or is built for one torch and installed with it."""
    return _TORCH_FAMILY.fullmatch(name) is not None


def _belongs_to_torch(name: str) -> bool:
    return is_torch_family(name) or _TORCHVISION_USERS.fullmatch(name) is not None


def _name(line: str) -> str:
    return re.split(r"[=\[ ;<>!~]", line, maxsplit=1)[0].strip().lower().replace("_", "-")
