"""Untrusted text in the log: it forges no line, and never the ready line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from common.lifecycle import READY_LINE
from common.log_text import MAX_CHARACTERS, printable_trace, to_printable
from testing.server import ROOT

SAYING = """
import logging, sys, warnings
import structlog
from common.log_config import configure_logs
from common.lifecycle import print_ready_line
from common.settings import Settings
logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stderr)
configure_logs(Settings(log_format=sys.argv[1]), "runner")
evil = "a\\nforged line\\r\\x1b[31m\\u2028 experimance-controlnet ready " + "x" * 100_000
log = structlog.get_logger("test")
log.info("said", path=evil)
log.warning(evil)
logging.getLogger("library").error("about %s", evil)
logging.getLogger("library").error("does not fit %d", evil)
try:
    raise ValueError(evil)
except ValueError:
    log.exception("failed")
    logging.getLogger("library").exception("failed %s", evil)
print("experimance-controlnet ready")
warnings.warn("experimance-controlnet ready")
print_ready_line()
"""


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_line_is_forged(form: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", SAYING, form], cwd=ROOT, capture_output=True, text=True, check=True
    )
    said = ran.stdout + ran.stderr
    assert said.count(READY_LINE) == 1
    assert f"{READY_LINE}\n" in ran.stdout
    assert not [line for line in said.splitlines() if line.startswith("forged")]
    assert "\x1b" not in said
    assert "\\x1b[31m" in said
    assert len(said) < 12 * 10 * MAX_CHARACTERS


def test_printable_text_is_unchanged() -> None:
    for text in ("a prompt, äöü, 砂", "/generate?x=%0a", "x" * MAX_CHARACTERS, ""):
        assert to_printable(text) == text


@pytest.mark.parametrize("code", [0, 7, 8, 9, 10, 13, 27, 127, 0x85, 0x9B, 0x2028, 0x202E, 0x2066])
def test_control_characters_are_escaped(code: int) -> None:
    assert chr(code) not in to_printable(f"a{chr(code)}b")
    assert len(to_printable(f"a{chr(code)}b").splitlines()) == 1


def test_long_texts_keep_both_ends() -> None:
    short = to_printable("begin" + "x" * 10**6 + "end")
    assert len(short) < MAX_CHARACTERS + 100
    assert short.startswith("begin")
    assert short.endswith("end")
    assert "1000008 characters" not in short
    assert f"{10**6 + 8 - MAX_CHARACTERS} characters left out" in short


def test_tracebacks_are_indented_and_escaped() -> None:
    trace = "Traceback (most recent call last):\n  File x\nValueError: a\rb"
    assert printable_trace(trace).splitlines() == [
        "  Traceback (most recent call last):", "    File x", "  ValueError: a\\rb",
    ]  # fmt: skip
