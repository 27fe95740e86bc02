"""The longer benchmarks at a small size: they run and print the agreed output."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import deepcache, estimator
from benchmarks.fidelity import student_faults
from benchmarks.support.quality import decoder_error, lora_response
from benchmarks.support.quality.gallery import (
    Reading,
    paint_pairs,
    plan,
    read,
    sheet,
    true_renderings,
)
from models.demo.training.data.eras import ERAS
from testing.heldout import heldout
from testing.server import ROOT, linked_home
from testing.workbench import demo_networks


class FakeJudge:
    """Reads height from brightness and names every picture's era `future`."""

    def era(self, picture: np.ndarray[Any, Any]) -> tuple[str, dict[str, float]]:
        return "future", {}

    def adherence(self, picture: np.ndarray[Any, Any], depth: np.ndarray[Any, Any]) -> float:
        return float(np.corrcoef(picture.mean(axis=2).ravel(), depth.ravel())[0, 1])

    def sharpness(self, picture: np.ndarray[Any, Any]) -> float:
        return float(picture.std())


def test_fidelity_paints_every_era_about_as_often() -> None:
    pairs = plan(heldout(count=64), eras_per_map=2)
    counts = Counter(era for _, era in pairs)
    assert set(counts) == set(ERAS)
    assert max(counts.values()) - min(counts.values()) <= 2
    assert len({(id(held), era) for held, era in pairs}) == 128


def test_fidelity_measures_the_images_it_generates(tmp_path: Any) -> None:
    maps = heldout(count=1)
    judge: Any = FakeJudge()
    pairs = plan(maps, 2)
    pictures = paint_pairs(pairs, steps=2, guidance_scale=1.0)
    readings = read(judge, pairs, pictures)
    assert [reading.asked for reading in readings] == list(ERAS)[:2]
    assert all(picture.shape == (256, 256, 3) for picture in pictures)
    assert all(-1 <= reading.adherence <= 1 for reading in readings)
    sheet(maps, pictures, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_estimator_correlates_for_generated_and_true_images() -> None:
    pairs = plan(heldout(count=3), 1)
    reader = estimator.estimator()
    for pictures in (true_renderings(pairs), estimator.painted(pairs, "lightning")):
        figures, found = estimator.correlations(reader, pairs, pictures)
        assert np.mean(figures) > 0.8
        assert all(estimate.shape == (256, 256) for estimate in found)


def _readings(right: int, adherence: float, sharpness: float) -> list[Reading]:
    seen = ["future"] * right + ["ruins"] * (20 - right)
    return [Reading("rings", "future", era, adherence, sharpness) for era in seen]


def test_a_student_that_falls_short_is_named() -> None:
    good = _readings(20, 0.9, 0.3)
    table = {
        ("base", 20): good,
        ("base", 6): _readings(16, 0.8, 0.2),
        ("lightning", 6): good,
        ("hyper", 6): good,
    }
    assert student_faults(table) == []
    table["hyper", 6] = _readings(18, 0.8, 0.21)
    assert [fault.split(": ")[1] for fault in student_faults(table)] == [
        "adherence",
        "era recognition",
        "no sharper than base in 6 steps",
    ]
    table["hyper", 6] = _readings(19, 0.9, 0.3)
    table["base", 6] = _readings(19, 0.8, 0.2)
    assert student_faults(table) == ["hyper: era no surer than base in 6 steps"]


def test_lora_check_requires_rising_effect_and_kept_depth() -> None:
    steady = tuple(0.6 * strength for strength in lora_response.STRENGTHS)
    kept = (0.9,) * len(steady)
    assert lora_response.Response("drone", "base", steady, kept).passed
    assert not lora_response.Response("drone", "base", steady[::-1], kept).passed
    assert not lora_response.Response("drone", "base", (*steady[:-1], 0.1), kept).passed
    assert not lora_response.Response("drone", "base", steady, (*kept[:-1], 0.7)).passed
    faint = tuple(0.2 * strength for strength in lora_response.STRENGTHS)
    assert not lora_response.Response("drone", "base", faint, kept).passed


def test_the_tiny_decoder_is_cheaper_and_close() -> None:
    error = decoder_error.measure(plan(heldout(count=2), 1), "lightning")
    assert 0 < error.mean < decoder_error.ERROR_BAR
    assert error.tiny_macs < error.full_macs / 2


def test_deepcache_is_read_beside_whole_steps() -> None:
    judge: Any = FakeJudge()
    pairs = [pair for pair in plan(heldout(count=8), 2) if pair[1] == "future"][:1]
    figures = deepcache.quality(judge, pairs, ["lightning"])
    assert figures["lightning"]["era"] == [1.0, 1.0]
    assert figures["lightning"]["difference"][0] > 0
    figures["lightning"]["adherence"] = [0.8, 0.6]
    assert deepcache.kept(figures) == pytest.approx(0.75)


def test_multiply_adds_are_counted_per_pixel() -> None:
    variant, _ = demo_networks("base")
    last = variant.vae.decoder.conv_out
    assert decoder_error.macs_per_pixel(variant.vae) > last.weight.numel()


def test_soak_accounts_for_every_request(demo_home: Path, tmp_path: Path) -> None:
    home = linked_home(demo_home, tmp_path / "home")
    command = [sys.executable, "-m", "benchmarks.soak", "--smoke", "--home", str(home)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    result = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0, result["faults"]
    assert result["pass"] is True
    assert result["kills"] == 1
    assert {"success", "overloaded"} <= result["outcomes"].keys()
    assert sum(result["outcomes"].values()) == sum(result["counted"].values()) > 80
