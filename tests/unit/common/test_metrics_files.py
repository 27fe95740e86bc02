"""Metric files: bounded in size and robust against a full disk."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.metrics_files import MAX_ENDED, MAX_FILE
from testing.server import ROOT

# Counts more series than the folder has room for, and tells that it came to its end.
COUNTING = """
import sys
from common.metrics_files import keep_metrics_files_bounded
keep_metrics_files_bounded()
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
counter = Counter("visits", "Visits", ["page"])
for number in range(int(sys.argv[1])):
    counter.labels(f"{number:06}" + "x" * 1000).inc(3)
counter.labels("000000" + "x" * 1000).inc(4)
registry = CollectorRegistry()
MultiProcessCollector(registry)
text = generate_latest(registry).decode()
print(text.count("visits_total{"), 'page="000000' + "x" * 1000 + '"} 7.0' in text)
"""


def count_exported_series(folder: Path, series: int) -> tuple[int, bool]:
    """How many series are exported, and whether the first one is right."""
    ran = subprocess.run(
        [sys.executable, "-c", COUNTING, str(series)],
        cwd=ROOT,
        env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, (ran.returncode, ran.stderr)
    number, is_right = ran.stdout.split()[-2:]
    return int(number), is_right == "True"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    if os.geteuid():
        pytest.skip("needs root, to mount a file system")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", tmp_path])
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def test_every_series_is_exported_with_enough_space(tmp_path: Path) -> None:
    assert count_exported_series(tmp_path, 500) == (500, True)


def test_disk_filling_up_does_not_stop_metrics(small_disk: Path) -> None:
    exported, is_right = count_exported_series(small_disk, 1000)
    assert 0 < exported < 260
    assert not is_right, "what was counted later is in the process's own memory"


def test_full_disk_does_not_stop_metrics(small_disk: Path) -> None:
    with contextlib.suppress(OSError), (small_disk / "full").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    assert count_exported_series(small_disk, 10) == (0, False)


def test_a_file_has_a_bound(tmp_path: Path) -> None:
    exported, _ = count_exported_series(tmp_path, 12_000)
    assert 3_000 < exported < 9_000
    assert max(file.stat().st_size for file in tmp_path.iterdir()) <= MAX_FILE


def test_files_of_processes_that_ended_are_few(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    now = time.time()
    for age in range(20):
        for kind in ("counter", "gauge_mostrecent"):
            file = tmp_path / f"{kind}_{ended.pid + age * 4_194_304}.db"
            file.write_bytes(bytes(4096))
            os.utime(file, (now - age,) * 2)
    own = tmp_path / f"counter_{os.getpid()}.db"
    own.write_bytes(bytes(4096))
    count_exported_series(tmp_path, 1)
    left = {file.name for file in tmp_path.iterdir()}
    assert own.name in left
    newest = {f"counter_{ended.pid + age * 4_194_304}.db" for age in range(MAX_ENDED)}
    assert newest <= left
    assert len([name for name in left if name.startswith("gauge")]) == MAX_ENDED
