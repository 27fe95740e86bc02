"""The first setup: its choice of Python, its error messages, and its recovery."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.setup import __main__ as setup
from deploy.setup import host, installer
from deploy.setup.environment import Contents, Environment
from deploy.setup.lockfile import ROOT, SERVING, downloads
from deploy.setup.pip_settings import parse_pip_settings, uv_environment
from deploy.setup.problems import SetupError, explain

pytestmark = pytest.mark.slow

FIND_PYTHON = ROOT / "deploy" / "setup" / "find_python.sh"
WANTED = Contents("lock", "", "3.13.5", "default", "")


def find_python(
    folder: Path, system: str, *arguments: str, uname: str = "Linux", **pythons: str
) -> subprocess.CompletedProcess[str]:
    """Run the script where only these Pythons are: command names, and the verdicts of each."""
    commands = folder / "bin"
    commands.mkdir(exist_ok=True)
    (commands / "uname").write_text(f"#!/bin/sh\necho {uname}\n")
    for name, verdict in pythons.items():
        command = commands / name.replace("_", ".")
        command.write_text(f"#!/bin/sh\necho '{verdict}'\n")
        command.chmod(0o755)
    (commands / "uname").chmod(0o755)
    release = folder / "os-release"
    release.write_text(system)
    settings = {"PATH": str(commands), "OS_RELEASE": str(release)}
    command_line = ["/bin/sh", str(FIND_PYTHON), *arguments]
    return subprocess.run(command_line, env=settings, capture_output=True, text=True)


def test_the_python_that_runs_this_suite_fits() -> None:
    command = [FIND_PYTHON, sys.executable]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, sys.executable), done.stderr


def test_a_fitting_python_beside_one_that_does_not_fit_is_taken(tmp_path: Path) -> None:
    done = find_python(tmp_path, "", python3="3.9.6, which is too old", python3_12="fits")
    assert done.returncode == 0
    assert done.stdout.strip().endswith("/python3.12")


@pytest.mark.parametrize(
    ("system", "uname", "advice"),
    [
        ("ID=debian\nVERSION_ID=12\n", "Linux", "apt install python3 python3-venv make"),
        ("ID=ubuntu\nVERSION_ID=24.04\n", "Linux", "On Ubuntu: apt install python3 python3-venv"),
        ("ID=ubuntu\nVERSION_ID=22.04\n", "Linux", "uv python install 3.13"),
        ("ID=fedora\nVERSION_ID=43\n", "Linux", "dnf install python3.13 make"),
        ("", "Darwin", "brew install python@3.13"),
        ("ID=void\n", "Linux", "on Fedora: dnf install python3.13 make; on macOS: brew"),
    ],
)
def test_unsuitable_python_is_reported_with_install_advice(
    tmp_path: Path, system: str, uname: str, advice: str
) -> None:
    done = find_python(tmp_path, system, uname=uname, python3="3.9.6, which is too old")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "Python 3.11.2 to 3.14 is needed" in line
    assert "/python3 is 3.9.6, which is too old." in line
    assert advice in line


def test_missing_python_is_reported(tmp_path: Path) -> None:
    system = "ID=debian\nVERSION_ID=12\n"
    assert "and there is none. On Debian" in find_python(tmp_path, system).stderr
    done = find_python(tmp_path, system, "python4", python3="fits")
    assert (done.returncode, "there is no python4" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("error: Failed to write to a file\n  Caused by: No space left on device (os error 28)",
         "The disk is full"),
        ("error: Failed to download `torch==2.14.1`\n  cause: Hash mismatch for `torch==2.14.1`",
         "A download arrived damaged"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.",
         "A download arrived damaged"),
        ("error: Failed to fetch: `https://index.example/simple/torch/`\n"
         "  Caused by: dns error: failed to lookup address", "The package index does not answer"),
        ("WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError'",
         "The package index does not answer"),
        ("error: Request failed\n  Caused by: client error (Connect)\n"
         "  Caused by: invalid peer certificate: UnknownIssuer", "certificate is not trusted"),
        ("error: Failed to initialize cache at `/home/x/.cache/uv`\n"
         "  Caused by: Permission denied (os error 13)", "A file cannot be written"),
    ],
)  # fmt: skip
def test_installer_errors_become_one_sentence_with_advice(said: str, advice: str) -> None:
    sentence, reason = explain(said).split("\n")
    assert advice in sentence
    assert sentence.endswith(".")
    assert len(reason) > 5


def test_unknown_installer_error_keeps_its_reason() -> None:
    assert explain("error: the moon is full") == (
        "The packages could not be installed: the moon is full"
    )
    assert "it said nothing" in explain("")


def test_without_the_module_venv_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.importlib.util, "find_spec", lambda name: None)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    with pytest.raises(SetupError, match=rf"no module venv: (apt|dnf) install python{version}"):
        host.require_venv()


@pytest.mark.parametrize(
    ("system", "machine", "library", "said"),
    [
        ("darwin", "x86_64", ("", ""), "Intel Macs"),
        ("linux", "riscv64", ("glibc", "2.41"), "no builds for riscv64"),
        ("linux", "x86_64", ("", ""), "glibc 2.28 or newer"),
        ("linux", "x86_64", ("glibc", "2.17"), "glibc 2.17"),
        ("win32", "AMD64", ("", ""), "WSL 2"),
    ],
)
def test_a_machine_without_builds_of_torch_is_named(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str, library: Any, said: str
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(platform, "libc_ver", lambda: library)
    with pytest.raises(SetupError, match=said):
        host.platform_name()


@pytest.mark.parametrize(
    ("system", "machine", "name"),
    [("darwin", "arm64", "macos-arm64"), ("linux", "aarch64", "linux-aarch64")],
)
def test_platform_names_match_the_lock(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str, name: str
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(platform, "mac_ver", lambda: ("14.5", ("", "", ""), "arm64"))
    assert host.platform_name() == name
    assert name in downloads(SERVING.read_text(encoding="utf-8"))


def test_pip_index_is_passed_to_uv_unless_configured() -> None:
    settings = parse_pip_settings(
        "global.index-url='https://mirror.example/simple'\n"
        "global.cert='/etc/ca.pem'\n"
        "install.find-links='/wheels\\n/more'\n"
        ":env:.extra-index-url='https://a.example/simple https://b.example/simple'\n"
        "freeze.user='true'\n"
    )
    assert uv_environment(settings, {}) == {
        "UV_DEFAULT_INDEX": "https://mirror.example/simple",
        "UV_INDEX": "https://a.example/simple https://b.example/simple",
        "UV_FIND_LINKS": "/wheels,/more",
        "SSL_CERT_FILE": "/etc/ca.pem",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }
    assert "SSL_CERT_FILE" not in uv_environment(settings, {"SSL_CERT_FILE": "/mine.pem"})
    assert uv_environment(settings, {"UV_DEFAULT_INDEX": "https://mine.example"}) == {}


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """An environment that a finished setup left."""
    made = Environment(tmp_path / "venv")
    made.open_for_changes(keep=False)
    made.write(Contents("lock", "", platform.python_version(), "default", ""))
    return made


def test_finished_environment_covers_only_its_own_contents(
    environment: Environment,
) -> None:
    there = environment.read()
    assert there is not None
    assert there.covers(Contents("lock", "", "any", "default", ""))
    assert not there.covers(Contents("other lock", "", "any", "default", ""))
    assert not there.covers(Contents("lock", "development", "any", "default", ""))
    assert not there.covers(Contents("lock", "", "any", "cpu", "/wheels"))


def test_interrupted_setup_starts_over(environment: Environment) -> None:
    half = environment.folder / "lib" / "half-a-package"
    environment.open_for_changes(keep=True)
    half.touch()
    assert environment.read() is None, "until the end it counts as unfinished"
    environment.open_for_changes(keep=False)
    assert not half.exists()


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


def test_transient_failure_is_retried(uv: Uv) -> None:
    uv.fail("error: Hash mismatch for `torch`")
    assert setup.main([]) == 0


def test_repeated_failure_is_one_sentence_and_next_run_succeeds(
    uv: Uv, capsys: pytest.CaptureFixture[str]
) -> None:
    uv.fail(*["error: Failed to fetch: dns error"] * 2)
    assert setup.main([]) == 1
    assert "No environment: The package index does not answer" in capsys.readouterr().err
    assert setup.main([]) == 0


def test_a_small_disk_is_named_before_anything_is_downloaded(
    uv: Uv, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = os.statvfs_result((4096, 4096, 10**6, 10, 10, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda folder: full)
    assert setup.main([]) == 1
    assert "GB of disk are needed, and 0.0 GB are free" in capsys.readouterr().err
    assert all("--dry-run" in call for call in uv.calls)


def test_interruption_prints_no_traceback(
    uv: Uv, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(installer.Installer, "install_lock", interrupt)
        assert setup.main([]) == 130
    assert "Interrupted. The same command" in capsys.readouterr().out
    assert setup.main([]) == 0


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
    uv: Uv, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert setup.main(arguments) == 1
    assert said in capsys.readouterr().err


def test_a_folder_without_torch_is_named(
    uv: Uv, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert setup.main(["--torch", "cpu", "--torch-index", str(tmp_path)]) == 1
    assert "TORCH_INDEX: its torch does not run here" in capsys.readouterr().err
    install = next(call for call in uv.calls if "--find-links" in call)
    assert install[-1].startswith("torch>=")
    assert "--no-index" in install
