"""The lock file's packages that go beside a torch which is there already."""

from __future__ import annotations

import re

# torch brings these, and with them the CUDA that it was built for. nvidia-ml-py is no part of it:
# BentoML counts GPUs with it.
_TORCHS_OWN = re.compile(r"torch|torchvision|torchaudio|triton|cuda-[a-z]+|nvidia-(?!ml-py$).+")


def without_torch(lock: str) -> str:
    """The lines of a lock file (`name==version`) without torch and what comes with it."""
    lines = lock.splitlines(keepends=True)
    return "".join(line for line in lines if not _TORCHS_OWN.fullmatch(_name(line)))


def _name(line: str) -> str:
    return line.partition("==")[0].partition("[")[0].strip().lower().replace("_", "-")
