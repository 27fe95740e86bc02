"""The documents name only what exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from api.errors import CODES_BY_STATUS
from common.settings import Settings, load_settings
from docs_build.reference.settings import shown_default
from models.catalog import load_catalog
from models.store.inventory import import_hint
from testing.server import ROOT
from tests.support.documents import DOCUMENTS, PAGES, README, commands, text_of

# Environment variables that programs beneath or beside this service read.
OTHERS = {
    "BENTOML_HOME", "CUDA_VISIBLE_DEVICES", "GOOGLE_APPLICATION_CREDENTIALS", "HF_TOKEN",
    "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "STORAGE_EMULATOR_HOST",
}  # fmt: skip
# Of the worker's and the image's own pages.
WORKERS = {
    "BACKEND", "BASE", "CONTAINER_ID", "FLAVOUR", "MODEL_LOG", "MODEL_SERVER_URL",
    "OPEN_BUTTON_TOKEN", "SERVERLESS", "TARGET", "UNSECURED", "USE_SSL", "WORKER_PORT",
    "WORKSPACE",
}  # fmt: skip
# Files that the reader's commands write.
READERS = {"models/catalog/mine.lock.json"}
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def label(page: Path) -> str:
    return str(page.relative_to(ROOT))


def inline(page: Path) -> list[list[str]]:
    """The words of inline code that starts like a command."""
    prose = re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)
    found = re.findall(r"`((?:make|python -m) [^`]+)`", prose)
    return [re.split(r"\s+", code) for code in found]


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_documents_and_commands_exist() -> None:
    names = {page.stem for page in DOCUMENTS}
    assert {"architecture", "deployment", "models", "quickstart", "troubleshooting"} <= names
    assert sum(len(commands(page)) for page in PAGES) > 40


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_every_make_target_exists(page: Path) -> None:
    for words in [*commands(page), *inline(page)]:
        if words[0] == "make":
            targets = [word for word in words[1:] if "=" not in word and word[0] != "-"]
            variables = [word.split("=")[0] for word in words[1:] if "=" in word]
            assert targets, words
            for target in targets:
                assert re.search(rf"^(.* )?{re.escape(target)}( .*)?:(?!=)", MAKEFILE, re.M), words
            for variable in variables:
                assert re.search(rf"\b{variable}\b", MAKEFILE), words


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_every_module_exists(page: Path) -> None:
    for words in [*commands(page), *inline(page)]:
        for before, option, name in zip(words, words[1:], words[2:], strict=False):
            if option == "-m" and re.search(r"python[\d.]*$", before):
                name = name.rstrip(",.;:")
                path = ROOT / name.replace(".", "/")
                is_ours = path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
                assert is_ours or name in {"bentoml", "json.tool", "pip", "pytest"}, words


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_every_variable_of_a_table_exists(page: Path) -> None:
    known = {name.upper() for name in Settings.model_fields} | OTHERS | WORKERS
    for row in re.findall(r"^\| (`[^|]*) \|", text_of(page), re.M):
        for name in re.findall(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*)(?:=\w+)?`", row):
            assert name in known, row


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_every_relative_link_resolves(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", text_of(file), re.M)
            assert anchor in {slug(heading) for heading in headings}, target


def test_the_readme_begins_with_the_two_commands() -> None:
    lines = text_of(README).splitlines()
    assert lines[0] == "```sh"
    assert [line.split()[:2] for line in lines[1:3]] == [["make", "serve"], ["make", "test"]]
    assert len(lines) <= 150


def test_the_readme_s_settings_have_their_defaults() -> None:
    table = text_of(README).partition("| variable |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (`[^|]*) \| ([^|]*) \|", table, re.M)
    assert len(rows) > 3
    for names, defaults in rows:
        told = [default.strip() for default in defaults.split(",")]
        fields = [Settings.model_fields[name.lower()] for name in re.findall(r"`(\w+)`", names)]
        assert [shown_default(field) for field in fields] == told, names


def test_every_setting_has_a_description() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name


def test_deployment_has_every_setting_with_its_default() -> None:
    table = text_of(ROOT / "docs" / "deployment.md").partition("## Settings")[2].partition("## ")[0]
    for name, field in Settings.model_fields.items():
        row = re.search(rf"^\|.*`{name.upper()}`.*$", table, re.M)
        assert row, name
        default = field.default
        if default is not None:
            shown = int(default) if isinstance(default, bool) else default
            assert f"`{shown}`" in row[0], row[0]


def test_troubleshooting_has_every_error_of_the_contract() -> None:
    page = text_of(ROOT / "docs" / "troubleshooting.md")
    for status, codes in CODES_BY_STATUS.items():
        for code in codes:
            rows = re.findall(rf"^\| [^|]*{status}[^|]* \|[^|]*`{code}`.*$", page, re.M)
            assert rows, (status, code)


def refusal(tmp_path: Path, **settings: str) -> tuple[int, str]:
    """Exit status and last line of a start with these settings and an empty store."""
    environment = {**os.environ, "BENTOML_HOME": str(tmp_path), "CATALOG": "demo", **settings}
    done = subprocess.run(
        [sys.executable, "-c", "import service; service.ImageService.inner.validate_startup()"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{"MODEL_SERVER_PORT": "99999"}, {"CATALOG": "nowhere"}, {"CATALOG": "experimance"}],
    ids=str,
)
def test_troubleshooting_quotes_start_errors(tmp_path: Path, settings: dict[str, str]) -> None:
    status, line = refusal(tmp_path, **settings)
    assert status == 78
    page = text_of(ROOT / "docs" / "troubleshooting.md")
    quoted = [q.split("…")[0].strip() for q in re.findall(r"`(cannot start: [^`]+)`", page)]
    assert any(len(start) > 30 and line.startswith(start) for start in quoted), line


def test_the_store_s_command_is_a_command_of_the_documents() -> None:
    command = import_hint(load_catalog("experimance"), ["models.base"]).split("with: ")[1]
    assert command in text_of(ROOT / "docs" / "troubleshooting.md")


@pytest.mark.parametrize(
    "name", ["ATTENTION_BACKEND", "COMPILE", "FP16_ACCUMULATION", "LOG_LEVEL", "LOG_FORMAT"]
)
def test_documented_choices_are_accepted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    page = text_of(ROOT / "docs" / "deployment.md")
    row = re.search(rf"^\| `{name}` \|(.*)$", page, re.M)
    assert row
    choices = set(re.findall(r"`([^`]+)`", row[1]))
    for choice in choices:
        monkeypatch.setenv(name, choice)
        assert getattr(load_settings(), name.lower()) == choice


def paths(page: Path) -> set[str]:
    """The inline code that is a path below one of this repository's folders."""
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "build"}
    found = re.findall(r"`([\w.-]+/[\w./-]*)`", text_of(page))
    return {path for path in found if path.partition("/")[0] in folders} - READERS


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_every_path_of_this_repository_exists(page: Path) -> None:
    assert [path for path in sorted(paths(page)) if not (ROOT / path).exists()] == []


def test_contributing_names_the_files_of_each_change() -> None:
    (page,) = (page for page in PAGES if page.stem == "contributing")
    named = paths(page)
    assert {"common/scheduler_table.py", "common/limits.py", "api/handlers/sse.py"} <= named
    assert {"models/catalog/schema.py", "client/experimance/cli/options.py"} <= named
