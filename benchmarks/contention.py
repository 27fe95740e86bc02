"""Slowdown by other programs on the same cores, by the spin count of waiting threads.

    python -m benchmarks.contention [--rounds N] [--pictures N] [--steps N]

Generates the demo's images in a process of their own, alone and beside two busy loops per core.
Rounds alternate between two spin counts of a thread that waits for its team: libgomp's default
(GOMP_SPINCOUNT=300000) and the service's. Takes four minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.support.report import finish, table
from runners import SPIN_COUNT
from testing.server import ROOT
from testing.workbench import Listener, drain, finished, make_engine, make_job

BESIDE_BAR, ALONE_BAR = 0.75, 1.1
"""Seconds with the service's spin count over libgomp's, beside busy loops and alone."""
_SIDE = 256
_WAYS = {"libgomp": "300000", "ours": SPIN_COUNT}
_READ_BY_LIBGOMP = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")


def paint(pictures: int, steps: int) -> float:
    """Return the median seconds of an image in this process, after one to warm up."""
    engine = make_engine()
    depth = np.tile(np.arange(_SIDE, dtype=np.uint8), (_SIDE, 1))
    listeners = [Listener() for _ in range(pictures + 1)]
    seconds = []
    for number, listener in enumerate(listeners):
        job = make_job(depth, request_id=str(number), model="lightning", steps=steps)
        engine.submit(job, listener)
        started = time.perf_counter()
        drain(engine)
        seconds.append(time.perf_counter() - started)
    finished(engine, listeners)
    return statistics.median(seconds[1:])


def painted(way: str, pictures: int, steps: int) -> float:
    """Return the median seconds of an image in a new process with one way's spin count."""
    inherited = {k: v for k, v in os.environ.items() if k not in _READ_BY_LIBGOMP}
    command = [sys.executable, "-m", "benchmarks.contention", "--worker"]
    done = subprocess.run(
        [*command, "--pictures", str(pictures), "--steps", str(steps)],
        cwd=ROOT,
        env={**inherited, "GOMP_SPINCOUNT": _WAYS[way]},
        check=True,
        capture_output=True,
        text=True,
    )
    return float(json.loads(done.stdout.splitlines()[-1]))


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """Run busy loops in this many processes until the context exits."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def measure(rounds: int, pictures: int, steps: int) -> dict[str, dict[str, float]]:
    """Return the median seconds of an image by way, alone and beside busy loops."""
    found: dict[str, dict[str, list[float]]] = {way: {"alone": [], "beside": []} for way in _WAYS}
    for place, loops in (("alone", 0), ("beside", 2 * (os.cpu_count() or 1))):
        for _ in range(rounds):
            for way in _WAYS:
                with busy(loops):
                    found[way][place].append(painted(way, pictures, steps))
    return {
        way: {place: statistics.median(each) for place, each in places.items()}
        for way, places in found.items()
    }


def main() -> None:
    """Measure, and finish with the ratios alone and beside busy loops."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=4, help="images per process")
    parser.add_argument("--steps", type=int, default=6, help="steps of an image")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(paint(options.pictures, options.steps)))
        return
    seconds = measure(options.rounds, options.pictures, options.steps)
    print(table(seconds))
    ratio: dict[str, Any] = {
        place: round(seconds["ours"][place] / seconds["libgomp"][place], 3)
        for place in ("alone", "beside")
    }
    passed = ratio["beside"] <= BESIDE_BAR and ratio["alone"] <= ALONE_BAR
    finish(ratio, {"alone": ALONE_BAR, "beside": BESIDE_BAR}, passed)


if __name__ == "__main__":
    main()
