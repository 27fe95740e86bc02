"""The site of the documents: built without a warning, asks no other host, shows no old page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from docs_build.make_images import (
    FOLDER,
    LARGEST_BYTES,
    PICTURES,
    FromModule,
    FromTutorial,
    side_by_side,
)
from docs_build.mkdocs_hooks import EXTERNAL_PAGES, repository_path, rewrite_links, site_path
from docs_build.run_code_blocks import PAGES
from testing.server import ROOT

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("markdown", "page", "expected"),
    [
        ("[a](docs/models.md)", "index.md", "[a](models.md)"),
        ("[a](docs/models.md#licences)", "index.md", "[a](models.md#licences)"),
        ("![a](docs/img/eras.png)", "index.md", "![a](img/eras.png)"),
        ("[![a](docs/img/a.png)](docs/b.md)", "index.md", "[![a](img/a.png)](b.md)"),
        ("[a](../deploy/vast/README.md)", "deployment.md", "[a](vast.md)"),
        ("[a](../../deploy/vast/README.md)", "tutorials/x.md", "[a](../vast.md)"),
        ("[a](../../docs/img/loras.png)", "demo.md", "[a](img/loras.png)"),
        ("[a](../models.md)", "tutorials/x.md", "[a](../models.md)"),
        ("[`a`](../service.py), b", "models.md", "`a`, b"),
        (
            "[a](#here), [b](https://example.org/x)",
            "x.md",
            "[a](#here), [b](https://example.org/x)",
        ),
        ("```sh\n[a](docs/models.md)\n```", "index.md", "```sh\n[a](docs/models.md)\n```"),
    ],
)
def test_links_lead_to_the_same_place_in_the_site(markdown: str, page: str, expected: str) -> None:
    assert rewrite_links(markdown, page) == expected


def test_pages_have_one_place_each() -> None:
    for in_repository, in_site in {**EXTERNAL_PAGES, "docs/a/b.md": "a/b.md"}.items():
        assert site_path(in_repository) == in_site
        assert repository_path(in_site) == in_repository
    assert site_path("service.py") is None


class Loads(HTMLParser):
    """What a browser fetches to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in {"img", "script", "iframe", "source"} and given.get("src"):
            self.addresses.append(str(given["src"]))
        if tag == "link" and given.get("rel") not in {"canonical", "next", "prev"}:
            self.addresses.append(str(given.get("href")))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_the_site_has_every_page(site: Path) -> None:
    for page in (*EXTERNAL_PAGES, *(str(path.relative_to(ROOT)) for path in PAGES)):
        html = (site / str(site_path(page))).with_suffix(".html").read_text(encoding="utf-8")
        assert "<h1" in html, page
    assert 'src="img/eras.png"' in (site / "index.html").read_text(encoding="utf-8")


def test_site_loads_nothing_from_other_hosts(site: Path) -> None:
    for path in site.rglob("*.html"):
        loads = Loads()
        loads.feed(path.read_text(encoding="utf-8"))
        assert loads.addresses
        for address in loads.addresses:
            assert not re.match(r"(https?:)?//", address), (path.name, address)
            if path.name != "404.html":
                assert (path.parent / address).exists(), (path.name, address)
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", path.read_text(encoding="utf-8"))


def test_no_reference_is_out_of_date() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "docs_build", "--check"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": "client"}, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_no_field_is_without_words() -> None:
    for name in ("api", "catalog"):
        page = (ROOT / "docs" / "reference" / f"{name}.md").read_text(encoding="utf-8")
        fields = page.partition("## Events of a stream")[0] + page.partition("## Objects")[2]
        tables = fields.partition("## The catalog ")[0]
        assert not re.findall(r"^\| `.*\|  \|$", tables, re.M), name


def test_every_picture_has_a_maker_and_a_page() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(PICTURES)
    text = "".join(
        path.read_text(encoding="utf-8")
        for path in [*(ROOT / "docs").rglob("*.md"), *(ROOT / name for name in EXTERNAL_PAGES),
                     ROOT / "mkdocs.yml"]
    )  # fmt: skip
    for name, source in PICTURES.items():
        assert f"img/{name}" in text, name
        match source:
            case FromModule(module):
                assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file()
            case FromTutorial(page, files):
                assert (FOLDER / name).stat().st_size < LARGEST_BYTES
                followed = (ROOT / page).read_text(encoding="utf-8")
                assert all(file in followed for file in files), name


def test_pictures_stand_side_by_side() -> None:
    row = side_by_side([Image.new("RGB", (20, 10)), Image.new("RGB", (30, 10))])
    assert row.size == (58, 10)
    assert row.getpixel((22, 5)) == (255, 255, 255)
