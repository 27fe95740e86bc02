"""Freed memory goes back to the system when the engine rests."""

from __future__ import annotations

import platform
import subprocess
import sys
import threading
import time

import pytest

import runners.engine
from benchmarks.workbench import Listener
from runners.engine import Engine
from tests.unit.jobs import job

_FRAGMENTS = """
import psutil
from runners.heap import trim_heap
# Below the size from which each block is mapped by itself; every hundredth stays.
kept = [bytearray(50_000) for _ in range(4_000)][::100]
before = psutil.Process().memory_info().rss
trim_heap()
print(before - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the heap is not glibc's")
def test_what_lies_between_living_blocks_goes_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FRAGMENTS], capture_output=True, check=True, text=True
    )
    assert int(done.stdout) > 150_000_000


def test_an_engine_that_rests_does_so_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    trims: list[str] = []
    monkeypatch.setattr(runners.engine, "_REST_SECONDS", 0.2)
    monkeypatch.setattr(
        runners.engine, "trim_heap", lambda: trims.append(threading.current_thread().name)
    )
    engine.start()
    try:
        for count in (1, 2):
            listener = Listener()
            engine.submit(job(f"request-{count}", steps=2), listener)
            until = time.monotonic() + 20
            while len(trims) < count and time.monotonic() < until:
                time.sleep(0.02)
            time.sleep(0.5)
            assert trims == ["engine"] * count
    finally:
        engine.close()
