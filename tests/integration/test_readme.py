"""The README's examples, as a reader would paste them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from api.settings import Settings
from benchmarks.server import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str, containing: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    (found,) = [text for text in blocks if containing in text]
    return str(found)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which the repository's documents lie where the examples expect them."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    return tmp_path


def test_the_first_lines_are_the_two_commands() -> None:
    assert README.startswith("```sh\nmake serve")
    assert README.splitlines()[2].startswith("make test")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("serve", "test", "check", "demo-train", "setup"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_curl_example(service_url: str, folder: Path) -> None:
    command = block("sh", "curl").replace("http://127.0.0.1:3000", service_url)
    subprocess.run(["bash", "-euc", command], cwd=folder, check=True)
    picture = Image.open(folder / "terrain.png")
    assert (picture.format, picture.size) == ("PNG", (256, 256))


def test_the_python_example(service_url: str, folder: Path) -> None:
    code = block("python", "SyncHTTPClient").replace("http://127.0.0.1:3000", service_url)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder, env=dict(os.environ), check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.startswith("7 {")
    assert Image.open(folder / "terrain.jpg").size == (256, 256)


def test_every_link_and_setting_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    table = README.partition("| variable |")[2].partition("\n\n")[0]
    named = {name.lower() for name in re.findall(r"`([A-Z_]+)`", table)} - {"debug", "error"}
    assert named - {"info"} <= set(Settings.model_fields)
