"""The benchmark of weight files names each of the faults that it looks for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import weight_kinds
from benchmarks.support.weights.adapter_families import unet_case
from benchmarks.support.weights.adapter_left_out import left_out_kinds
from benchmarks.support.weights.adapters import adapter_kind, refused_adapter, relative_error
from benchmarks.support.weights.kind import Kind, WrittenKind
from benchmarks.support.weights.table import GROUPS
from benchmarks.support.weights.trial import KindTrial
from models.store.store import CatalogEntry
from testing.weight_files.adapter_case import make_case
from testing.weight_files.families import write_lora
from testing.weight_files.networks import demo_parts, outputs

pytestmark = pytest.mark.slow

LORA = unet_case(write_lora, ("attn1.to_q",))


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KindTrial]:
    with KindTrial(tmp_path_factory.mktemp("trial")).opened() as opened:
        yield opened


def save_lora(path: Path) -> None:
    make_case(demo_parts().unet, write_lora, ("attn1.to_q",)).save(path)


def half_strength(file: Path, strength: float) -> dict[str, torch.Tensor]:
    return outputs(demo_parts().changed((LORA(demo_parts()), 0.5 * strength)))


def failing(folder: Path) -> WrittenKind:
    written = adapter_kind("x", LORA).write(folder)

    def measure(entry: CatalogEntry) -> float:
        raise RuntimeError(entry.name)

    return replace(written, measure=measure)


def broken_catalog(folder: Path) -> WrittenKind:
    return replace(adapter_kind("x", LORA).write(folder), name="another")


BUNDLED = left_out_kinds()[0]


@pytest.mark.parametrize(("kind", "found"), [
    (adapter_kind("right", LORA), "exact"),
    (adapter_kind("at a strength", LORA, strength=-5.0), "exact"),
    (adapter_kind("wrong", LORA, reference=half_strength), "silent"),
    (Kind("fails after the import", "exact", failing), "late"),
    (Kind("has no entry", "exact", broken_catalog), "late"),
    (refused_adapter("accepted", (), save_lora), "silent"),
    (refused_adapter("damaged", ("truncated",), lambda path: path.write_bytes(b"\1")), "refused"),
    (refused_adapter("without its cause", ("Flux",), lambda path: path.write_bytes(b"\1")),
     "unclear"),
    (BUNDLED, "left out"),
    (replace(BUNDLED, named=("another part",)), "unclear"),
])  # fmt: skip
def test_every_outcome_is_recognised(trial: KindTrial, kind: Kind, found: str) -> None:
    assert trial.judge(kind).found == found


def test_errors_are_relative_to_the_effect_of_each_network() -> None:
    plain = {"unet": torch.zeros(2), "text_encoder": torch.zeros(2)}
    right = {"unet": torch.tensor([1.0, 0.0]), "text_encoder": torch.tensor([0.0, 0.1])}
    found = {"unet": torch.tensor([1.0, 0.01]), "text_encoder": torch.tensor([0.0, 0.12])}
    assert relative_error(found, right, plain) == pytest.approx(0.2)
    assert relative_error(right, right, plain) == 0.0
    changed = {**right, "text_encoder": torch.tensor([0.0, float("nan")])}
    assert not relative_error(changed, right, plain) <= 1.0
    unchanged = {**right, "text_encoder": torch.zeros(2)}
    assert relative_error(right, unchanged, plain) == float("inf")
    with pytest.raises(ValueError, match="changes outputs by no more"):
        relative_error(plain, plain, plain)


def test_kinds_have_distinct_names_and_all_outcomes() -> None:
    kinds = [(group, kind) for group, make in GROUPS.items() for kind in make()]
    assert len({(group, kind.name) for group, kind in kinds}) == len(kinds) >= 60
    assert {kind.outcome for _, kind in kinds} == {"exact", "left out", "refused"}
    assert all(kind.named for _, kind in kinds if kind.outcome != "exact")


def test_a_group_is_judged_and_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["weight_kinds", "--group", "parts left out"])
    with pytest.raises(SystemExit) as ended:
        weight_kinds.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (ended.value.code, result["figure"], result["bar"], result["pass"]) == (0, 0, 0, True)
    assert result["kinds"] == len(left_out_kinds())
    assert result["largest_error"] <= result["largest_accepted_error"]


def test_a_wrong_kind_fails_the_benchmark(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = adapter_kind("wrong", LORA, reference=half_strength)
    monkeypatch.setitem(GROUPS, "own", lambda: [wrong])
    monkeypatch.setattr("sys.argv", ["weight_kinds", "--group", "own"])
    with pytest.raises(SystemExit) as ended:
        weight_kinds.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (ended.value.code, result["figure"]) == (1, 1)
    assert result["wrong"] == ["own: wrong: silent"]
