"""Code blocks of the documents: each one runs or states why not."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from docs_build.run_code_blocks import PAGES, CodeBlockRunner, lint_blocks, parse_blocks
from testing.server import ROOT
from tests.support.waiting import wait_until


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_runs_or_states_a_reason(page: Path) -> None:
    assert not list(lint_blocks(page))
    assert any(block.is_code for block in parse_blocks(page))


PAGE = """\
```sh
echo 3001 http://127.0.0.1:3000/readyz
```

<!-- output -->
```text
… http://127.0.0.1:…/readyz
```

<!-- not run: needs an account -->
```sh
exit 1
```

```python title="saved.py"
print("kept")
```

```sh
python saved.py
```

<!-- output -->
```text
kept
```
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.md"
    path.write_text(PAGE, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> CodeBlockRunner:
    store = tmp_path_factory.mktemp("store")
    (store / "models").mkdir()
    return CodeBlockRunner("http://127.0.0.1:12345", store, tmp_path_factory.mktemp("reader"))


def test_a_page_is_followed(reader: CodeBlockRunner, page: Path) -> None:
    reader.read(page)
    assert (reader.folder / "saved.py").is_file()


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("exit 1\n```\n\n```python", "exit 1\n```\n\n```sh\nexit 3\n```\n\n```python", "line 15"),
        ("kept\n```\n", "lost\n```\n", "printed kept"),
    ],
)
def test_a_false_page_is_noticed(
    reader: CodeBlockRunner, page: Path, before: str, after: str, complaint: str
) -> None:
    text = page.read_text(encoding="utf-8")
    start, found, end = text.rpartition(before)
    assert found
    page.write_text(start + after + end, encoding="utf-8")
    with pytest.raises(AssertionError, match=complaint):
        reader.read(page)


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_background_processes_of_a_page_are_ended(tmp_path: Path, page: Path) -> None:
    (tmp_path / "models").mkdir()
    page.write_text("```sh\nsleep 600 &\necho $! > pid\n```\n", encoding="utf-8")
    with CodeBlockRunner("http://127.0.0.1:12345", tmp_path, tmp_path / "reader") as reader:
        reader.read(page)
        pid = int((reader.folder / "pid").read_text(encoding="utf-8"))
        assert runs(pid)
    wait_until(lambda: not runs(pid))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("```\nx\n```\n", "without a language"),
        ("<!-- not run: no -->\n```sh\nx\n```\n", "no reason"),
        ("<!-- output -->\n```text\nx\n```\n", "output of no block"),
        ('```python title="a.py"\nx\n```\n', "never used"),
    ],
)
def test_invalid_blocks_are_reported(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "page.md"
    path.write_text(text, encoding="utf-8")
    assert complaint in next(lint_blocks(path))
