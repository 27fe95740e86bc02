"""Documents and the shell commands that they show."""

from __future__ import annotations

import contextlib
import re
import shlex
from pathlib import Path

from testing.server import ROOT

README = ROOT / "README.md"
DOCUMENTS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [
    README, *DOCUMENTS, *sorted((ROOT / "deploy").rglob("*.md")), ROOT / "models/demo/README.md"
]  # fmt: skip


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def commands(page: Path) -> list[list[str]]:
    """The words of every command in the page's fenced sh blocks, over as many lines as it has."""
    found = []
    for block in re.findall(r"```sh\n(.*?)```", text_of(page), re.DOTALL):
        command = ""
        for line in block.replace("\\\n", " ").splitlines():
            command += line
            with contextlib.suppress(ValueError):
                # A quotation that is still open goes on in the next line.
                words = shlex.split(command, comments=True)
                command = ""
                if words:
                    found.append(words)
    return found
