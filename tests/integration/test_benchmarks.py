"""The longer benchmarks, in small: they run, and say what they say in the agreed form."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import Any

import numpy as np

from benchmarks.fidelity import plan, read, sheet
from benchmarks.heldout import heldout
from benchmarks.server import ROOT
from benchmarks.workbench import demo_catalog


class FakeJudge:
    """Reads height from brightness and names every picture's era `future`."""

    def era(self, picture: np.ndarray[Any, Any]) -> tuple[str, dict[str, float]]:
        return "future", {}

    def adherence(self, picture: np.ndarray[Any, Any], depth: np.ndarray[Any, Any]) -> float:
        return float(np.corrcoef(picture.mean(axis=2).ravel(), depth.ravel())[0, 1])

    def sharpness(self, picture: np.ndarray[Any, Any]) -> float:
        return float(picture.std())


def test_fidelity_paints_every_era_as_often() -> None:
    maps = heldout(count=64)
    pairs = plan(maps, strength=0.8, eras_per_map=2)
    assert set(Counter(era for _, era in pairs).values()) == {128 // len(demo_catalog().eras)}
    assert len({(id(held), era) for held, era in pairs}) == 128


def test_fidelity_reads_what_it_paints(tmp_path: Any) -> None:
    maps = heldout(count=1)
    judge: Any = FakeJudge()
    readings, pictures = read(judge, maps, strength=0.8, cfg=1.0)
    assert [reading.asked for reading in readings] == list(demo_catalog().eras)[:2]
    assert all(picture.shape == (256, 256, 3) for picture in pictures)
    assert all(-1 <= reading.adherence <= 1 for reading in readings)
    sheet(maps, pictures, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_overhead_ends_with_one_json_line(service_url: str) -> None:
    command = [sys.executable, "-m", "benchmarks.overhead", "--rounds", "1", "--url", service_url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["bar"] == 1.05
    assert result["pass"] is (result["figure"] <= 1.05)
    assert done.returncode == (0 if result["pass"] else 1), done.stderr
