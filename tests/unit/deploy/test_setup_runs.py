"""The setup's environment: made once, recognised, completed; failures and interruptions."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.setup import __main__ as setup
from deploy.setup import installer
from deploy.setup.environment import Contents, Environment

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def empty_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an environment with nothing installed, to be copied: making one takes long."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    Environment(folder).open_for_changes(keep=False)
    return folder


def finished(folder: Path, copied: Path, torch: str = "default") -> Environment:
    """An environment that a finished setup left, of another lock than today's."""
    shutil.copytree(copied, folder, symlinks=True)
    made = Environment(folder)
    made.write(Contents("lock", "", platform.python_version(), torch, ""))
    return made


@pytest.fixture
def environment(tmp_path: Path, empty_environment: Path) -> Environment:
    return finished(tmp_path / "venv", empty_environment)


def test_finished_environment_covers_only_its_own_contents(
    environment: Environment,
) -> None:
    there = environment.read()
    assert there is not None
    assert there.covers(Contents("lock", "", "any", "default", ""))
    assert not there.covers(Contents("other lock", "", "any", "default", ""))
    assert not there.covers(Contents("lock", "development", "any", "default", ""))
    assert not there.covers(Contents("lock", "", "any", "cpu", "/wheels"))


@pytest.mark.parametrize("damage", ["python", "record"])
def test_a_broken_environment_is_not_taken_for_a_whole_one(
    environment: Environment, damage: str
) -> None:
    if damage == "python":
        environment.python.unlink()
    else:
        (environment.folder / ".installed.json").write_text("{")
    assert environment.read() is None


class Uv:
    """A stand-in on PATH: notes its arguments, fails so often, and says why."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._calls, self._failures = folder / "calls", folder / "failures"
        program = folder / "uv"
        program.write_text(
            f"#!{sys.executable}\n"
            "import json, pathlib, sys\n"
            f"calls, failures = pathlib.Path({str(self._calls)!r}), "
            f"pathlib.Path({str(self._failures)!r})\n"
            "with calls.open('a') as file: file.write(json.dumps(sys.argv[1:]) + '\\n')\n"
            "left = failures.read_text().splitlines() if failures.exists() else []\n"
            "if '--dry-run' in sys.argv: sys.exit(print('Would download 3', file=sys.stderr))\n"
            "if left:\n"
            "    failures.write_text('\\n'.join(left[1:]))\n"
            "    sys.exit(left[0])\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def fail(self, *reasons: str) -> None:
        self._failures.write_text("\n".join(reasons))

    @property
    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in self._calls.read_text().splitlines()]


@pytest.fixture
def uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Uv:
    folder = tmp_path / "commands"
    folder.mkdir()
    monkeypatch.setattr(setup, "FOLDER", tmp_path / ".venv")
    return Uv(folder, monkeypatch)


def test_first_setup_prints_its_plan_and_second_is_silent(
    uv: Uv, capsys: pytest.CaptureFixture[str]
) -> None:
    assert setup.main([]) == 0
    told = capsys.readouterr().out
    assert f"Python {platform.python_version()}" in told
    assert "torch 2." in told
    assert "GB to download" in told
    install = next(call for call in uv.calls if "--dry-run" not in call)
    assert {"--require-hashes", "--no-deps"} <= set(install)
    calls = len(uv.calls)
    assert setup.main([]) == 0
    assert capsys.readouterr().out == ""
    assert len(uv.calls) == calls
    assert setup.main(["--development"]) == 0
    assert "packages, at most" in capsys.readouterr().out


@pytest.fixture
def outdated(tmp_path: Path, uv: Uv, empty_environment: Path) -> Environment:
    """The setup has packages to install, in the environment that is there."""
    return finished(tmp_path / ".venv", empty_environment)


@pytest.mark.usefixtures("outdated")
def test_transient_failure_is_retried(uv: Uv) -> None:
    uv.fail("error: Hash mismatch for `torch`")
    assert setup.main([]) == 0


@pytest.mark.usefixtures("outdated")
def test_repeated_failure_is_one_sentence_and_next_run_succeeds(
    uv: Uv, capsys: pytest.CaptureFixture[str]
) -> None:
    uv.fail(*["error: Failed to fetch: dns error"] * 2)
    assert setup.main([]) == 1
    assert "No environment: The package index does not answer" in capsys.readouterr().err
    assert setup.main([]) == 0


@pytest.mark.usefixtures("outdated")
def test_a_small_disk_is_named_before_anything_is_downloaded(
    uv: Uv, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = os.statvfs_result((4096, 4096, 10**6, 10, 10, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda folder: full)
    assert setup.main([]) == 1
    assert "GB of disk are needed, and 0.0 GB are free" in capsys.readouterr().err
    assert all("--dry-run" in call for call in uv.calls)


def test_interrupted_setup_prints_no_traceback_and_starts_over(
    outdated: Environment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    half = outdated.folder / "lib" / "half-a-package"

    def interrupt(*_: Any) -> None:
        half.touch()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(installer.Installer, "install_lock", interrupt)
        assert setup.main([]) == 130
    assert "Interrupted. The same command" in capsys.readouterr().out
    assert outdated.read() is None, "until the end it counts as unfinished"
    assert half.exists()
    assert setup.main([]) == 0
    assert not half.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--torch", "gpu"], "TORCH: gpu is neither default nor cpu."),
        (["--torch", "cpu"], "TORCH=cpu needs TORCH_INDEX="),
        (
            ["--torch", "cpu", "--torch-index", "nowhere"],
            "TORCH_INDEX: nowhere is neither a folder nor an http(s) address.",
        ),
    ],
)
def test_a_wrong_choice_of_torch_is_named(
    uv: Uv,
    tmp_path: Path,
    empty_environment: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    finished(tmp_path / ".venv", empty_environment, torch="cpu")
    assert setup.main(arguments) == 1
    assert said in capsys.readouterr().err


def test_a_folder_without_torch_is_named(
    uv: Uv, tmp_path: Path, empty_environment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(tmp_path / ".venv", empty_environment, torch="cpu")
    assert setup.main(["--torch", "cpu", "--torch-index", str(tmp_path)]) == 1
    assert "TORCH_INDEX: its torch does not run here" in capsys.readouterr().err
    install = next(call for call in uv.calls if "--find-links" in call)
    assert install[-1].startswith("torch>=")
    assert "--no-index" in install
