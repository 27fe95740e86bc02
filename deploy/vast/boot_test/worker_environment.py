"""The serverless worker's own Python environment on this machine."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from deploy.container.commands import ROOT
from deploy.vast.context import HERE

_REQUIREMENTS = HERE / "worker-requirements.txt"


def worker_environment() -> Path:
    """The folder of the environment; made once for each set of requirements and each Python."""
    pinned = hashlib.sha256(_REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = ROOT / "build" / f"worker-venv-{pinned}"
    done = folder / ".installed"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([folder / "bin" / "python", *install, "-r", _REQUIREMENTS], check=True)
        done.touch()
    return folder
