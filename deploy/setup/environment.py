"""The folder of the environment (.venv): made, made anew where it is broken, and its record."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from deploy.setup.host import require_venv
from deploy.setup.problems import SetupError, explain

_RECORD = ".installed.json"


@dataclass(frozen=True, slots=True)
class Contents:
    """What is installed in an environment.

    Attributes:
        serving: digest of the serving lock and of the client's project file.
        development: digest of the development lock; empty where that is not installed.
        python: version of the interpreter.
        torch: `default`, the package index's build, or `cpu`.
        torch_index: the index or folder that a CPU build came from; empty for `default`.
    """

    serving: str
    development: str
    python: str
    torch: str
    torch_index: str

    def covers(self, wanted: Contents) -> bool:
        """Tell whether nothing has to be installed to have what is wanted."""
        development = wanted.development in {"", self.development}
        return development and self.serving == wanted.serving and self.shares_torch(wanted)

    def shares_torch(self, wanted: Contents) -> bool:
        """Tell whether both have the same build of torch, from wherever it came."""
        return self.torch == wanted.torch


class Environment:
    """A virtual environment and the record of what a finished setup installed in it.

    Args:
        folder: where it lies, or is to be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        self._record = folder / _RECORD

    def read(self) -> Contents | None:
        """Return what it holds; None where no setup came to its end, or its Python is gone."""
        try:
            contents = Contents(**json.loads(self._record.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return contents if self._version() == contents.python else None

    def write(self, contents: Contents) -> None:
        """Record that a setup came to its end."""
        self._record.write_text(json.dumps(asdict(contents), indent=2) + "\n", encoding="utf-8")

    def open_for_changes(self, keep: bool) -> None:
        """Make it ready to be installed into; until `write` it counts as unfinished.

        Args:
            keep: leave what is installed. Otherwise it is made anew: an interrupted installation
                can leave packages that look whole.

        Raises:
            SetupError: it cannot be made here; the message says what to do.
        """
        self._record.unlink(missing_ok=True)
        if keep:
            return
        require_venv()
        command = [sys.executable, "-m", "venv", "--clear", str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise SetupError(explain(done.stderr + done.stdout))

    def _version(self) -> str:
        program = "import sys; print(*sys.version_info[:3], sep='.')"
        try:
            done = subprocess.run([self.python, "-c", program], capture_output=True, text=True)
        except OSError:
            return ""
        return done.stdout.strip()
