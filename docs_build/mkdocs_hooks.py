"""What MkDocs is told beside mkdocs.yml: pages from outside docs/, and their links."""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
# MkDocs loads a hook by its path, from whatever folder it was called in.
sys.path.insert(0, str(ROOT))
EXTERNAL_PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "deploy/vast/README.md": "vast.md",
    "models/demo/README.md": "demo.md",
}
"""Pages of the site that lie outside docs/: path in the repository to path in the site."""
_FENCED = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[((?:!\[[^\]]*\]\([^)]*\)|[^\]])*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Add the pages that lie outside docs/."""
    for in_repository, in_site in EXTERNAL_PAGES.items():
        text = (ROOT / in_repository).read_text(encoding="utf-8")
        files.append(File.generated(config, in_site, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Let relative links point where things are in the site."""
    return rewrite_links(markdown, page.file.src_uri)


def repository_path(site_path: str) -> str:
    """Where a page of the site lies in the repository."""
    for in_repository, in_site in EXTERNAL_PAGES.items():
        if in_site == site_path:
            return in_repository
    return f"docs/{site_path}"


def site_path(repository_path: str) -> str | None:
    """Where a file of the repository lies in the site; None: it is not part of it."""
    if repository_path in EXTERNAL_PAGES:
        return EXTERNAL_PAGES[repository_path]
    folder, _, rest = repository_path.partition("/")
    return rest if folder == "docs" and rest else None


def rewrite_links(markdown: str, page: str) -> str:
    """A page with its relative links as they are in the site.

    A link to a file that is no part of the site becomes its text: the reader of a site has no
    source tree beside it. Code blocks stay as they are.

    Args:
        markdown: the page, with links relative to its place in the repository.
        page: its path in the site.
    """
    parts = _FENCED.split(markdown)
    return "".join(
        part if part.startswith("```") else _LINK.sub(lambda link: _link(link, page), part)
        for part in parts
    )


def _link(link: re.Match[str], page: str) -> str:
    text, target = _LINK.sub(lambda inner: _link(inner, page), link[1]), link[2]
    path, hash_mark, anchor = target.partition("#")
    if not path or re.match(r"[a-z][a-z+]*:", target):
        return f"[{text}]({target})"
    here = posixpath.dirname(repository_path(page))
    there = site_path(posixpath.normpath(posixpath.join(here, path)))
    if there is None:
        return text
    relative = posixpath.relpath(there, posixpath.dirname(page) or ".")
    return f"[{text}]({relative}{hash_mark}{anchor})"
