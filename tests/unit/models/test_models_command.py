"""The command `python -m models`."""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import bentoml
import pytest
from bentoml._internal.bento import BentoStore

from models.__main__ import main
from models.catalog import SHIPPED
from models.sources.progress import progress_display
from models.store.atomic_write import commit, delete, staging_dir, store_root
from testing.imports import store_at

DEMO = (SHIPPED / "demo.toml").read_text(encoding="utf-8")


@pytest.fixture
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty store; Bentos are looked for in it too."""
    monkeypatch.setattr(bentoml, "list", lambda: BentoStore(tmp_path / "bentos").list())
    (tmp_path / "bentos").mkdir()
    with store_at(tmp_path):
        yield tmp_path


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    path = tmp_path / "own.toml"
    weights = SHIPPED.parent / "demo" / "weights"
    text = DEMO.replace('name = "demo"', 'name = "own"')
    path.write_text(text.replace("file:../demo/weights", f"file:{weights}"), encoding="utf-8")
    return path


def test_prune_keeps_used_components(
    own_store: Path, catalog: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", "--catalog", "demo"]) == 0
    assert main(["import", "--catalog", str(catalog)]) == 0
    before = len(list(own_store.glob("models/sdxl-*/*/")))
    text = catalog.read_text(encoding="utf-8")
    start, end = text.index("[loras.drone]"), text.index("[loras.experimance]")
    trimmed = text[:start] + text[end:]
    catalog.write_text(re.sub(r"drone = [\d.]+(, )?", "", trimmed), encoding="utf-8")
    leftovers = own_store / "downloads" / "x"
    leftovers.mkdir(parents=True)
    (leftovers / "y.part").write_bytes(bytes(1000))
    capsys.readouterr()
    assert main(["prune", "--catalog", str(catalog)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[1].partition(":")[0] for line in said[:-1]] == [
        "own.loras.drone",
        "unfinished",
    ]
    assert not leftovers.exists()
    assert len(list(own_store.glob("models/sdxl-*/*/"))) == before, "the demo catalog uses it"
    assert main(["list", "--catalog", "demo"]) == 0
    assert "missing" not in capsys.readouterr().out


def test_prune_removes_unused_components(
    own_store: Path, catalog: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with staging_dir() as folder:
        (folder / "made").mkdir()
        (folder / "made" / "x.safetensors").write_bytes(bytes(2_000_000))
        commit(folder / "made", "sdxl-unet:orphan", {"kind": "unet"}, {})
    with staging_dir() as folder:
        (folder / "made").mkdir()
        commit(folder / "made", "someone-elses:1", {}, {})
    assert main(["prune", "--catalog", str(catalog)]) == 0
    assert "removed  sdxl-unet:orphan  2.0 MB" in capsys.readouterr().out
    assert [str(model.tag) for model in bentoml.models.list()] == ["someone-elses:1"]
    assert not (store_root() / "sdxl-unet").exists()


def test_a_model_appears_whole_or_not_at_all(own_store: Path) -> None:
    for version in ("1", "2"):
        with staging_dir() as folder:
            made = folder / "made"
            made.mkdir()
            (made / "file").write_text(version)
            assert not (store_root() / "thing" / version).exists()
            commit(made, f"thing:{version}", {"digest": version}, {"source": "gs://b/x"})
    model = bentoml.models.get("thing:latest")
    assert (model.tag.version, model.info.labels) == ("2", {"digest": "2"})
    assert model.info.metadata == {"source": "gs://b/x"}
    with staging_dir() as folder:
        made = folder / "made"
        made.mkdir()
        (made / "file").write_text("other")
        commit(made, "thing:1", {}, {})
    assert Path(bentoml.models.get("thing:1").path, "file").read_text() == "1"
    assert delete("thing:1") > 0
    assert bentoml.models.get("thing:latest").tag.version == "2"
    delete("thing:2")
    assert not (store_root() / "thing").exists()
    assert not list(own_store.glob(".staging/*"))


def test_progress_without_terminal_is_json_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    # Between two looks at it 0.4 s pass.
    clock = SimpleNamespace(monotonic=itertools.count(100, 0.4).__next__)
    monkeypatch.setattr("models.sources.progress.time", clock)
    stream = io.StringIO()
    with progress_display(stream) as (progress, say):
        progress.begin("gs://b/x", 4000, 1000)
        for _ in range(3):
            progress.advance("gs://b/x", 1000)
        progress.mark("gs://b/x", "done")
        say("imported own.loras.x")
    *lines, last = stream.getvalue().splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "file": "gs://b/x",
            "status": "downloading",
            "bytes_downloaded": 1000,
            "total_bytes": 4000,
            "percent": 25.0,
        },
        {
            "file": "gs://b/x",
            "status": "downloading",
            "bytes_downloaded": 4000,
            "total_bytes": 4000,
            "percent": 100.0,
        },
        {
            "file": "gs://b/x",
            "status": "done",
            "bytes_downloaded": 4000,
            "total_bytes": 4000,
            "percent": 100.0,
        },
    ]
    assert last == "imported own.loras.x"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    with progress_display(stream) as (progress, say):
        progress.begin("gs://b/x", 4000, 1000)
        progress.advance("gs://b/x", 3000)
        progress.mark("gs://b/x", "verifying")
        say("imported own.loras.x")
    text = stream.getvalue()
    assert "gs://b/x" in text
    assert "verifying" in text
    assert "imported own.loras.x" in text
    assert "{" not in text


def test_an_unknown_command_and_catalog(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["fly"])
    assert caught.value.code == 2
    assert main(["list", "--catalog", "absent"]) == 1
    assert "demo, experimance" in capsys.readouterr().err
