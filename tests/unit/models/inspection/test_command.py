"""The command `python -m models inspect`: its output and exit statuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from models.__main__ import main
from models.catalog import SHIPPED
from testing.imports import store_at

WEIGHTS = SHIPPED.parent / "demo" / "weights"


def test_exit_statuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.ckpt").write_bytes(b"\x80\x02")
    assert main(["inspect", str(tmp_path / "x.ckpt")]) == 1
    assert "x.ckpt: a pickle, 0.0 MB" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    for text, said in [
        (str(tmp_path / "none.safetensors"), "does not exist"),
        (str(tmp_path / "empty"), "the folder has no weight files"),
        ("hf://owner/repository/x.safetensors", "download the file first"),
    ]:
        assert main(["inspect", text]) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["inspect"])
    assert ended.value.code == 2


def test_json_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(WEIGHTS / "loras" / "drone.safetensors", tmp_path / "b.safetensors")
    (tmp_path / "a.ckpt").write_bytes(b"\x80\x02")
    (tmp_path / "readme.txt").write_text("x")
    assert main(["inspect", "--json", str(tmp_path)]) == 1
    pickle, lora = json.loads(capsys.readouterr().out)
    assert (pickle["file"], pickle["usable"]) == ("a.ckpt", False)
    assert (lora["file"], lora["kind"]) == ("b.safetensors", "a LoRA")
    assert "this model's have 2048" in lora["problem"], "the demo's networks are smaller"


def test_an_unknown_catalog_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    file = str(WEIGHTS / "loras" / "drone.safetensors")
    assert main(["inspect", "--catalog", "absent", file]) == 1
    assert "catalog 'absent' does not exist" in capsys.readouterr().err


def test_variants_of_a_catalog_in_the_store(
    demo_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(WEIGHTS / "loras" / "drone.safetensors")
    with store_at(demo_home):
        assert main(["inspect", "--catalog", "demo", file]) == 0
    said = capsys.readouterr().out
    assert "drone.safetensors: a LoRA for model lightning, model hyper, model base, " in said
    assert "[loras.drone]" in said
