"""The lock file's packages that go beside a torch which is there already."""

from __future__ import annotations

import re

# torch brings these, and with them the CUDA that it was built for. nvidia-ml-py is no part of it:
# BentoML counts GPUs with it.
_TORCHS_OWN = re.compile(r"torch|torchvision|torchaudio|triton|cuda-[a-z]+|nvidia-(?!ml-py$).+")


def without_torch(lock: str) -> str:
    """A lock file (`name==version`, hashes on lines of their own) without torch and what comes
    with it."""
    kept, keeps = [], True
    for line in lock.splitlines(keepends=True):
        if not line[0].isspace():
            keeps = not _TORCHS_OWN.fullmatch(_name(line))
        if keeps:
            kept.append(line)
    return "".join(kept)


def _name(line: str) -> str:
    return line.partition("==")[0].partition("[")[0].strip().lower().replace("_", "-")
