"""Installation with uv: the uv on PATH, or else one that pip installs into the environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

from deploy.setup import lockfile
from deploy.setup.environment import Environment
from deploy.setup.pip_settings import read_pip_settings, uv_environment
from deploy.setup.problems import SetupError, explain

PYTORCH_PAGE = "https://pytorch.org/get-started/locally/"
_BUILD = "import torch; print(torch.__version__, torch.version.cuda or torch.version.hip or 'cpu')"


class Installer:
    """Installer of locks, torch and projects into one environment.

    Args:
        environment: an existing environment.
    """

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        found = shutil.which("uv")
        self._uv = found or str(environment.folder / "bin" / "uv")
        if not found:
            self._install_uv()
        settings = read_pip_settings(environment.python)
        self._variables = {**os.environ, **uv_environment(settings, os.environ)}

    def missing(self, lock: str) -> int:
        """Return the number of a lock's packages that uv would download, given its cache."""
        with _requirements(lock) as file:
            done = self._run(["--dry-run", *_LOCKED, "--requirement", file.name], quiet=True)
        found = re.search(r"Would download (\d+)", done.stderr)
        return int(found[1]) if found else 0

    def install_lock(self, lock: str) -> None:
        """Install the packages of a lock with hash checking.

        Raises:
            SetupError: The installation failed; the message has the remedy.
        """
        with _requirements(lock) as file:
            self._install([*_LOCKED, "--requirement", file.name])

    def install_project(self, folder: Path) -> None:
        """Install a project of this repository in editable mode, without its dependencies.

        The lock has the dependencies.

        Raises:
            SetupError: The installation failed.
        """
        self._install(["--no-deps", "--no-build-isolation", "--editable", str(folder)])

    def install_cpu_torch(self, index: str) -> str:
        """Install a CPU build of torch in a version that the project accepts; return the version.

        Args:
            index: the URL of a package index, or a folder of wheels.

        Raises:
            SetupError: `index` is invalid, has no matching torch, or its torch is not a CPU build.
        """
        folder = Path(index.removeprefix("file://")).expanduser()
        if folder.is_dir():
            source = ["--no-index", "--find-links", str(folder)]
        elif re.match(r"https?://", index):
            source = ["--default-index", index]
        else:
            raise SetupError(f"TORCH_INDEX: {index} is neither a folder nor an http(s) address.")
        wanted = torch_requirement()
        try:
            self._install(["--no-deps", "--reinstall-package", "torch", *source, wanted])
        except SetupError as error:
            raise SetupError(f"TORCH_INDEX: no {wanted} for this Python there.\n{error}") from error
        command = [str(self._environment.python), "-c", _BUILD]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise SetupError(f"TORCH_INDEX: its torch does not run here: {explain(done.stderr)}")
        version, build = done.stdout.split()
        if build != "cpu":
            raise SetupError(
                f"TORCH_INDEX: torch {version} there is built for a GPU; {PYTORCH_PAGE} names the "
                "index of CPU builds."
            )
        return version

    def _install(self, arguments: Sequence[str]) -> None:
        # The first attempt shows its progress. The retry recovers from transient faults, such as
        # an interrupted download, and captures the output for `explain`.
        if self._run(arguments).returncode == 0:
            return
        done = self._run(arguments, quiet=True)
        if done.returncode != 0:
            raise SetupError(explain(done.stderr + done.stdout))

    def _run(
        self, arguments: Sequence[str], quiet: bool = False
    ) -> subprocess.CompletedProcess[str]:
        command = [self._uv, "pip", "install", "--python", str(self._environment.python)]
        return subprocess.run(
            [*command, *arguments], env=self._variables, capture_output=quiet, text=True
        )

    def _install_uv(self) -> None:
        lock = lockfile.DEVELOPMENT.read_text(encoding="utf-8")
        pip = [str(self._environment.python), "-m", "pip", "install", "--disable-pip-version-check"]
        with _requirements(lockfile.select(lock, lambda name: name == "uv")) as file:
            command = [*pip, "--quiet", "--no-deps", "--require-hashes", "--requirement", file.name]
            done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise SetupError(explain(done.stderr + done.stdout))


_LOCKED = ("--require-hashes", "--no-deps")


def torch_requirement() -> str:
    """Return the torch requirement of the project's pyproject.toml."""
    project = tomllib.loads((lockfile.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    dependencies: list[str] = project["project"]["dependencies"]
    return next(each for each in dependencies if re.match(r"torch\b", each))


def _requirements(lock: str) -> tempfile._TemporaryFileWrapper[str]:
    file = tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8")  # noqa: SIM115
    file.write(lock)
    file.flush()
    return file
