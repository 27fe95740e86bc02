"""The folder of the virtual environment (.venv) and the record of its contents."""

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
    """Installed contents of an environment.

    Attributes:
        serving: digest of the serving lock and of the client's project file.
        development: digest of the development lock; empty if it is not installed.
        python: version of the interpreter.
        torch: `default` (the package index's build) or `cpu`.
        torch_index: the index or folder of a CPU build; empty for `default`.
    """

    serving: str
    development: str
    python: str
    torch: str
    torch_index: str

    def covers(self, wanted: Contents) -> bool:
        """Return whether these contents satisfy `wanted` without an installation."""
        development = wanted.development in {"", self.development}
        return development and self.serving == wanted.serving and self.shares_torch(wanted)

    def shares_torch(self, wanted: Contents) -> bool:
        """Return whether both have the same kind of torch build, from any index."""
        return self.torch == wanted.torch


class Environment:
    """A virtual environment and the record of the last completed setup.

    Args:
        folder: the folder of the environment; it need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        self._record = folder / _RECORD

    def read(self) -> Contents | None:
        """Return the recorded contents; None without a completed setup or a working Python."""
        try:
            contents = Contents(**json.loads(self._record.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return contents if self._version() == contents.python else None

    def write(self, contents: Contents) -> None:
        """Record a completed setup."""
        self._record.write_text(json.dumps(asdict(contents), indent=2) + "\n", encoding="utf-8")

    def open_for_changes(self, keep: bool) -> None:
        """Prepare the environment for an installation; it counts as incomplete until `write`.

        Args:
            keep: keep the installed packages. Otherwise create the environment anew, because an
                interrupted installation can leave incomplete packages that look complete.

        Raises:
            SetupError: The environment cannot be created; the message has the remedy.
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
