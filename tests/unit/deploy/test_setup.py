"""The first setup: its choice of Python and of packages, and its error messages."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.setup import host
from deploy.setup.lockfile import ROOT, SERVING, downloads
from deploy.setup.pip_settings import parse_pip_settings, uv_environment
from deploy.setup.problems import SetupError, explain

pytestmark = pytest.mark.slow

FIND_PYTHON = ROOT / "deploy" / "setup" / "find_python.sh"


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
