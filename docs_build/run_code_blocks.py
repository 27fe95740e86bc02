"""Runner of the documentation's code blocks in a copy of the repository."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from testing.server import ROOT, SERVICE_START, free_port, linked_home

PAGES = [
    ROOT / "README.md",
    *(
        path
        for name in ("quickstart", "client", "load", "playground", "provenance")
        if (path := ROOT / "docs" / f"{name}.md").is_file()
    ),
    *sorted((ROOT / "docs" / "tutorials").glob("*.md")),
]
SHELLS, PYTHON = {"sh", "bash", "shell", "console"}, {"python"}
_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^>]*) -->\n+)?"
    r"^```(?P<language>\w*)(?P<rest>[^\n]*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_NOT_IN_A_COPY = (".git", ".venv", "build", "__pycache__", ".*_cache", ".hypothesis", "tests")
_LONGEST_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced code block.

    Attributes:
        line: line number in the page.
        language: the language after the fence; may be empty.
        text: content of the block.
        reason: the stated reason not to run it, or None.
        file: the name under which to save it, or None.
        is_output: whether it is the output of the previous block, with `…` for variable parts.
    """

    line: int
    language: str
    text: str
    reason: str | None
    file: str | None
    is_output: bool

    @property
    def is_code(self) -> bool:
        """Whether a reader would run the block."""
        return self.language in SHELLS | PYTHON


def parse_blocks(page: Path) -> list[Block]:
    """Return all fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [_block(match, text) for match in _BLOCK.finditer(text)]


def _block(match: re.Match[str], page: str) -> Block:
    mark = match["mark"] or ""
    reason = re.fullmatch(r"not run: (.+)", mark)
    file = re.search(r'title="([^"]+)"', match["rest"])
    return Block(
        line=page.count("\n", 0, match.start("language")) + 1,
        language=match["language"],
        text=match["text"],
        reason=reason[1] if reason else None,
        file=file[1] if file else None,
        is_output=mark == "output",
    )


class CodeBlockRunner:
    """Runner of a page's blocks in a shell, in a copy of the repository.

    Port 3000 of a page becomes the service at `url`. Port 3001 becomes a free port, for services
    that a page starts. `close`, or the end of a `with` block, kills the processes that pages
    started.
    """

    def __init__(self, url: str, store: Path, folder: Path) -> None:
        """Copy the repository and the store.

        Args:
            url: base URL of a running service.
            store: a Bento home that holds the demo set.
            folder: an empty working folder.
        """
        self.folder = folder / "experimance-controlnet"
        self._url = url
        self._own_port = str(free_port())
        self._shells: list[int] = []
        skip = shutil.ignore_patterns(*_NOT_IN_A_COPY)
        shutil.copytree(ROOT, self.folder, ignore=skip)
        (self.folder / ".venv").symlink_to(ROOT / ".venv")
        # Services started by a page must not share a Bento home with the one at `url`.
        self._home = linked_home(store, folder / "bentoml")

    def __enter__(self) -> CodeBlockRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill all processes that pages started."""
        for group in self._shells:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)

    def read(self, page: Path) -> None:
        """Run all blocks of a page in order.

        Raises:
            AssertionError: A block fails, or its output differs from the page.
        """
        printed = ""
        for block in parse_blocks(page):
            if block.is_output:
                assert _like(block.text).search(printed), f"line {block.line}: printed {printed}"
            elif block.is_code and block.reason is None:
                printed = self._follow(block)

    def _follow(self, block: Block) -> str:
        text = block.text.replace("127.0.0.1:3000", self._url.removeprefix("http://"))
        text = re.sub(r"\b3001\b", self._own_port, text)
        if block.file:
            (self.folder / block.file).write_text(text, encoding="utf-8")
            return ""
        if block.language == "console":
            text = "\n".join(re.findall(r"^\$ (.*)$", text, re.MULTILINE))
        command = (
            [sys.executable, "-c", text]
            if block.language in PYTHON
            else ["bash", "-euo", "pipefail", "-c", text]
        )
        with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
            # Files, not pipes: a pipe stays open until a block's background processes end.
            process = subprocess.Popen(
                command, cwd=self.folder, env=self._environment(), stdout=output, stderr=errors,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            self._shells.append(process.pid)
            status = process.wait(_LONGEST_SECONDS)
            output.seek(0)
            errors.seek(0)
            printed = output.read()
            assert status == 0, f"line {block.line}: {errors.read()[-3000:] or printed}"
        return printed

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{self.folder / 'client'}{os.pathsep}{SERVICE_START}",
            "BENTOML_HOME": str(self._home),
            "BENTOML_DO_NOT_TRACK": "True",
            "MODEL_SERVER_URL": self._url,
            # Dry run of make: other tests cover installing, serving and testing.
            "MAKEFLAGS": "n",
        }


def _like(output: str) -> re.Pattern[str]:
    """Return a pattern for an expected output; a line of `…` alone matches any lines."""
    lines = [line.strip() for line in output.strip().splitlines()]
    patterns = [r"[\s\S]*" if line == "…" else re.escape(line).replace("…", ".*") for line in lines]
    return re.compile(r"\s*\n\s*".join(patterns))


def lint_blocks(page: Path) -> Iterator[str]:
    """Yield the faults of a page's blocks that are detectable without running them."""
    all_blocks = parse_blocks(page)
    for number, block in enumerate(all_blocks):
        where = f"line {block.line}"
        if not block.language:
            yield f"{where}: a block without a language; text for what is not run"
        if block.reason is not None and not block.is_code:
            yield f"{where}: not run, but {block.language} never is"
        if block.reason is not None and len(block.reason) < 10:
            yield f"{where}: {block.reason!r} is no reason"
        if block.is_output and not (number and all_blocks[number - 1].is_code):
            yield f"{where}: output of no block"
        later = "".join(other.text for other in all_blocks[number + 1 :] if not other.reason)
        used = block.file and (
            block.file in later or re.search(rf"\b(from|import) {Path(block.file).stem}\b", later)
        )
        if block.file and not used:
            yield f"{where}: {block.file} is saved and never used"
