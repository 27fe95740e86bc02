"""The documents' examples, as a reader would paste them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from docs_build.run_code_blocks import PAGES, CodeBlockRunner
from testing.server import ROOT


@pytest.fixture
def reader(service_url: str, demo_home: Path, tmp_path: Path) -> Iterator[CodeBlockRunner]:
    with CodeBlockRunner(service_url, demo_home, tmp_path) as reader:
        yield reader


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_document_examples_run_as_written(reader: CodeBlockRunner, page: Path) -> None:
    if shutil.which("curl") is None and "curl " in page.read_text(encoding="utf-8"):
        pytest.skip("curl is not installed (apt install curl)")
    reader.read(page)
    if page.name == "README.md":
        for name, kind in (("terrain.png", "PNG"), ("terrain.jpg", "JPEG")):
            picture = Image.open(reader.folder / name)
            assert (picture.format, picture.size) == (kind, (256, 256))
