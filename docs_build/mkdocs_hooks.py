"""MkDocs hooks: pages from outside docs/, and their links."""

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
# MkDocs loads a hook by path, so the repository is not on sys.path.
sys.path.insert(0, str(ROOT))
EXTERNAL_PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "deploy/vast/README.md": "vast.md",
    "models/demo/README.md": "demo.md",
}
"""Pages of the site from outside docs/: path in the repository to path in the site."""
_FENCED = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[((?:!\[[^\]]*\]\([^)]*\)|[^\]])*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Add the pages from outside docs/."""
    for in_repository, in_site in EXTERNAL_PAGES.items():
        text = (ROOT / in_repository).read_text(encoding="utf-8")
        files.append(File.generated(config, in_site, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Convert relative links to the paths of the site."""
    return rewrite_links(markdown, page.file.src_uri)


def repository_path(site_path: str) -> str:
    """Return the path in the repository of a page of the site."""
    for in_repository, in_site in EXTERNAL_PAGES.items():
        if in_site == site_path:
            return in_repository
    return f"docs/{site_path}"


def site_path(repository_path: str) -> str | None:
    """Return the path in the site of a file of the repository; None if the site excludes it."""
    if repository_path in EXTERNAL_PAGES:
        return EXTERNAL_PAGES[repository_path]
    folder, _, rest = repository_path.partition("/")
    return rest if folder == "docs" and rest else None


def rewrite_links(markdown: str, page: str) -> str:
    """Convert a page's relative links to the paths of the site.

    A link to a file outside the site becomes plain text, because the site has no source tree. Code
    blocks stay unchanged.

    Args:
        markdown: the page, with links relative to its path in the repository.
        page: path of the page in the site.
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
