"""The lock, what the registry says of it, and the bill of materials."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deploy.supply import lock, sbom
from deploy.supply.lock import LOCK, LockError, Pin, faults, files_of, locked, pins
from deploy.vast.requirements import without_torch
from models.catalog import load_catalog

A, B, C = "a" * 64, "b" * 64, "c" * 64


def listing(*files: tuple[str, str, bool]) -> dict[str, Any]:
    return {
        "files": [
            {"filename": name, "hashes": {"sha256": digest}, "yanked": yanked}
            for name, digest, yanked in files
        ]
    }


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the registry has, by package."""
    there: dict[str, Any] = {}
    monkeypatch.setattr(lock, "listings", lambda found: [there[pin.name] for pin in found])
    return there


def test_the_lock_is_read_as_it_is_written() -> None:
    text = LOCK.read_text(encoding="utf-8")
    assert "".join(map(str, pins(text))) == text
    with pytest.raises(LockError, match="git"):
        pins("a==1\ngit+https://somewhere\n")


def test_every_package_has_its_hashes() -> None:
    assert [pin.name for pin in pins(LOCK.read_text(encoding="utf-8")) if not pin.hashes] == []


def test_files_that_can_be_installed_count() -> None:
    there = listing(
        ("thing-1.0-cp311-cp311-manylinux_2_28_x86_64.whl", A, False),
        ("thing-1.0-cp311-cp311-win_amd64.whl", B, False),
        ("thing-1.0-cp310-cp310-manylinux_2_28_x86_64.whl", B, False),
        ("thing-1.1-py3-none-any.whl", B, False),
        ("thing-1.0.tar.gz", C, False),
    )
    assert list(files_of(Pin("thing", "1.0"), there)) == [(A, False)]
    only_source = listing(("thing-1.0.tar.gz", C, True), ("thing-0.9.tar.gz", A, False))
    assert list(files_of(Pin("thing", "1.0"), only_source)) == [(C, True)]


def test_hashes_are_the_registrys(registry: dict[str, Any]) -> None:
    registry["thing"] = listing(
        ("thing-1.0-py3-none-any.whl", B, False), ("thing-1.0-py2.py3-none-any.whl", A, False)
    )
    text = locked("thing==1.0\n")
    assert text == f"thing==1.0 \\\n    --hash=sha256:{A} \\\n    --hash=sha256:{B}\n"
    assert faults(text) == []
    with pytest.raises(LockError, match=r"thing==2\.0: the registry has no file"):
        locked("thing==2.0\n")


def test_what_was_changed_or_withdrawn_is_named(registry: dict[str, Any]) -> None:
    registry["thing"] = listing(("thing-1.0-py3-none-any.whl", A, True))
    assert faults(str(Pin("thing", "1.0", frozenset({A})))) == ["thing==1.0: withdrawn"]
    assert faults(str(Pin("thing", "1.0", frozenset({B})))) == [
        f"thing==1.0: sha256:{B} is not in the registry"
    ]
    assert faults("thing==1.0\n") == ["thing==1.0: no hash"]


def test_torch_is_left_out_with_its_hashes() -> None:
    text = "".join(
        str(Pin(name, "1", frozenset({A, B}))) for name in ("numpy", "torch", "triton", "zipp")
    )
    assert [pin.name for pin in pins(without_torch(text))] == ["numpy", "zipp"]


def test_the_bill_has_every_package_and_every_weight(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "sbom.json"
    assert sbom.main(["--catalog", "experimance", "--output", str(file)]) == 0
    bill = json.loads(file.read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    packages = {part["name"] for part in bill["components"] if part["type"] == "library"}
    assert len(packages) == len(pins(LOCK.read_text()))
    catalog = load_catalog("experimance")
    weights = {p["name"] for p in bill["components"] if p["type"] == "machine-learning-model"}
    sections = (catalog.models, catalog.controlnets, catalog.loras, catalog.depth_estimators)
    assert weights == {name for section in sections for name in section}
    refs = [part["bom-ref"] for part in bill["components"]]
    assert len(set(refs)) == len(refs)
    assert sbom.bill(catalog) == bill
