"""Usage errors of the command: exit status 2 before anything is sent."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from experimance.load.cli import load
from testing.server import ROOT

APP = typer.Typer()
APP.command()(load)


def said(*options: str) -> tuple[int, str]:
    """Exit status, and everything it printed as one line."""
    done = CliRunner().invoke(APP, options, env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})
    return done.exit_code, " ".join(done.output.replace("│", " ").split())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--rate", "fast"), "Invalid value for '--rate': 'fast' is not accepted"),
        (("--rate", "1", "--clients", "1"), "use --rate or --clients"),
        (("--rate", "1", "--think", "1"), "'--think': an open loop has no think time"),
        (("--requests", "0"), "'--requests': 0 is not accepted; use a number from 1 to 1000000"),
        (("--duration", "2d"), "'--duration': '2d' is not a duration; accepted: 90, 90s"),
        (("--scenario", "gone"), "one of burst, installation, visitors"),
        (("--expect", "p96<1"), "'--expect': 'p96<1': no figure 'p96'"),
        (("--url", "ftp://x"), "'--url': 'ftp://x' is not accepted; use http://HOST:PORT"),
        (("--url", "http://a:b@x"), "must not hold a password; use --token"),
        (("--json", "nowhere/r.json"), "'--json': nowhere/r.json is not a file in an existing"),
        (("--html", "-"), "'--html': needs a file name"),
        (("--timeout", "0"), "'--timeout'"),
        (("--max-in-flight", "5000"), "'--max-in-flight'"),
    ],
)
def test_wrong_options(options: tuple[str, ...], words: str) -> None:
    status, output = said(*options)
    assert status == 2
    assert words in output


def test_scenario_errors_name_the_key(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[[scenario]]\nname = "a"\nwieght = 2\n')
    status, output = said("--scenario", str(path))
    assert status == 2
    assert "mine.toml: scenario 1" in output
    assert "does not know wieght; accepted: name, weight" in output


def test_missing_packages_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    status, output = said()
    assert status == 2
    assert "pip install 'experimance-client[load]'" in output


def test_load_imports_nothing_of_the_service() -> None:
    owned = {
        "api",
        "benchmarks",
        "bentoml",
        "common",
        "deploy",
        "models",
        "runners",
        "service",
        "torch",
    }
    sources = list((ROOT / "client" / "experimance" / "load").rglob("*.py"))
    assert len(sources) > 15
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not owned & {name.split(".")[0] for name in names}, path.name
