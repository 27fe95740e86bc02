"""The spin count of waiting OpenMP threads, as libgomp reports it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from benchmarks.contention import painted
from runners import SPIN_COUNT

pytestmark = pytest.mark.slow

_NAMES = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}


@pytest.mark.skipif(sys.platform != "linux", reason="torch brings another OpenMP elsewhere")
@pytest.mark.parametrize(
    ("settings", "spins"),
    [({}, SPIN_COUNT), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")],
)
def test_runner_sets_openmp_spin_unless_configured(settings: dict[str, str], spins: str) -> None:
    inherited = {k: v for k, v in os.environ.items() if k not in _NAMES}
    done = subprocess.run(
        # Of the runner's modules the quickest to import that loads torch.
        [sys.executable, "-c", "import runners.device"],
        env={**inherited, **settings, "OMP_DISPLAY_ENV": "verbose"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr) == [spins]


def test_images_are_generated_with_libgomps_setting() -> None:
    """With the runner's own they are in every test of the service."""
    assert painted("libgomp", pictures=1, steps=1) > 0
