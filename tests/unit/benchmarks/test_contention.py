"""Images in a process with a given spin count, beside other programs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.contention import PLACES, busy, painted

pytestmark = pytest.mark.slow


def test_images_are_generated_beside_other_programs() -> None:
    with busy("lightly"):
        assert painted("300000", pictures=1, steps=1, side=64) > 0


@pytest.mark.parametrize("place", PLACES)
def test_no_program_is_left_behind(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    before = subprocess.Popen

    def watched(command: list[str]) -> subprocess.Popen[bytes]:
        assert command[0] == sys.executable
        started.append(before(command))
        return started[-1]

    monkeypatch.setattr("benchmarks.contention.subprocess.Popen", watched)
    with busy(place):
        assert all(each.poll() is None for each in started)
    assert bool(started) == (place != "alone")
    assert all(each.poll() is not None for each in started)
