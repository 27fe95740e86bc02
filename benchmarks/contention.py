"""Slowdown by other programs on the same cores, by the spin count of waiting threads.

    python -m benchmarks.contention [--rounds N] [--pictures N] [--steps N] [--side N] [--spin N]

Generates the demo's images in a process of their own: alone, beside one process that computes for a
fifth of the time, and beside two busy loops per core. Rounds alternate between two spin counts of a
thread that waits for its team: libgomp's default (GOMP_SPINCOUNT=300000), which the service leaves
alone, and the one that docs/reliability.md names for machines with other programs. Takes six
minutes.
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
from testing.server import ROOT
from testing.workbench import Listener, drain, finished, make_engine, make_job

BESIDE_BAR = 0.75
"""Seconds with fewer spins over those with libgomp's default, beside busy loops."""
PLACES = ("alone", "lightly", "beside")
_SIDE = 256
_DEFAULT, _FEWER = "300000", "10000"
_WAYS = ("libgomp", "fewer")
_LOOP = "while True: pass"
_LIGHT = """
import time
while True:
    ended = time.monotonic() + 0.02
    while time.monotonic() < ended:
        pass
    time.sleep(0.08)
"""
_READ_BY_LIBGOMP = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")


def paint(pictures: int, steps: int, side: int) -> float:
    """Return the median seconds of an image in this process, after one to warm up."""
    engine = make_engine()
    depth = np.tile(np.linspace(0, 255, side).astype(np.uint8), (side, 1))
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


def painted(spins: str, pictures: int, steps: int, side: int) -> float:
    """Return the median seconds of an image in a new process with a spin count."""
    inherited = {k: v for k, v in os.environ.items() if k not in _READ_BY_LIBGOMP}
    command = [sys.executable, "-m", "benchmarks.contention", "--worker"]
    done = subprocess.run(
        [*command, "--pictures", str(pictures), "--steps", str(steps), "--side", str(side)],
        cwd=ROOT,
        env={**inherited, "GOMP_SPINCOUNT": spins},
        check=True,
        capture_output=True,
        text=True,
    )
    return float(json.loads(done.stdout.splitlines()[-1]))


@contextlib.contextmanager
def busy(place: str) -> Iterator[None]:
    """Run the programs of a place until the context exits."""
    loads = {"alone": [], "lightly": [_LIGHT], "beside": [_LOOP] * 2 * (os.cpu_count() or 1)}
    loops = [subprocess.Popen([sys.executable, "-c", code]) for code in loads[place]]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def measure(
    rounds: int, pictures: int, steps: int, side: int, spin: str
) -> dict[str, dict[str, float]]:
    """Return the median seconds of an image by way and by what else runs."""
    found: dict[str, dict[str, list[float]]] = {
        way: {place: [] for place in PLACES} for way in _WAYS
    }
    spins = {"libgomp": _DEFAULT, "fewer": spin}
    for place in PLACES:
        for number in range(rounds):
            for way in _WAYS if number % 2 else reversed(_WAYS):
                with busy(place):
                    found[way][place].append(painted(spins[way], pictures, steps, side))
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
    parser.add_argument("--side", type=int, default=_SIDE, help="pixels of an image's side")
    parser.add_argument("--spin", default=_FEWER, help="the other spin count")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(paint(options.pictures, options.steps, options.side)))
        return
    seconds = measure(options.rounds, options.pictures, options.steps, options.side, options.spin)
    print(table(seconds))
    ratio: dict[str, Any] = {
        place: round(seconds["fewer"][place] / seconds["libgomp"][place], 3) for place in PLACES
    }
    finish(ratio, {"beside": BESIDE_BAR}, ratio["beside"] <= BESIDE_BAR)


if __name__ == "__main__":
    main()
