"""The service as a process that may refuse to start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from testing.server import ROOT
from tests.support.calls import PATIENCE


def serve(home: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "BENTOML_HOME": str(home), **settings}
    command = [sys.executable, "-m", "bentoml", "serve", "--host", "127.0.0.1", "-p", "0"]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
