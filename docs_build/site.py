"""What MkDocs is told beside mkdocs.yml: pages from outside docs/, and their links."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
# MkDocs loads a hook by its path, from whatever folder it was called in.
sys.path.insert(0, str(ROOT))

from docs_build.links import ELSEWHERE, rewritten  # noqa: E402


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Add the pages that lie outside docs/."""
    for in_repository, in_site in ELSEWHERE.items():
        text = (ROOT / in_repository).read_text(encoding="utf-8")
        files.append(File.generated(config, in_site, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Let relative links point where things are in the site."""
    return rewritten(markdown, page.file.src_uri)
