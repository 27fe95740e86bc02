"""Imports under faults: completeness, and bytes downloaded again.

    python -m benchmarks.import_faults [--kills 10]

Injects every fault into an import of the demo set from a bucket. Google's own client talks to
gcp-storage-emulator behind a server that misbehaves. An import is whole when every entry is in the
store, every file matches its digest, and no partial file is left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.support.report import finish
from models.importer import ImportingError
from testing.faulty_bucket import Fault, FaultyBucket
from testing.imports import TRANSFER, Site, publish

LORA = "demo/loras/drone.safetensors"
UNET = "demo/unet/diffusion_pytorch_model.safetensors"
TRANSIENT = {
    "none": [],
    "truncated body": [Fault("truncate", times=6, skip=4)],
    "connection reset": [Fault("reset", times=6, skip=4)],
    "bit flipped": [Fault("flip", only="unet/diffusion", skip=9)],
    "503 storm": [Fault("status", times=20, skip=4)],
    "429": [Fault("status", times=6, skip=4, status=429)],
    "replaced between ranges": [Fault("replace", only="drone", skip=2)],
}
LASTING = {
    "403": [Fault("status", times=10**9, status=403)],
    "object missing": [Fault("status", times=10**9, status=404)],
    "always damaged": [Fault("flip", times=10**9)],
    "range ignored": [Fault("whole", times=10**9)],
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a scenario: `again` counts bytes downloaded twice, `allowed` is its limit."""

    name: str
    ended: str
    whole: bool
    again: int
    allowed: int
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether the import is whole and within its bytes."""
        return self.whole and self.again <= self.allowed

    def __str__(self) -> str:
        state = "whole" if self.whole else "NOT WHOLE"
        return (
            f"{self.name:<28} {self.ended:<28} {state:<10} {self.again / 1e6:7.2f} MB again "
            f"(at most {self.allowed / 1e6:.2f})  {self.seconds:.1f} s"
        )


def main() -> None:
    """Run every scenario and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10, help="imports killed at random moments")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with FaultyBucket.running() as bucket, tempfile.TemporaryDirectory() as folder:
        os.environ["STORAGE_EMULATOR_HOST"] = bucket.url
        publish(bucket)
        trial = Trial(bucket, Path(folder))
        outcomes = [trial.transient(name) for name in TRANSIENT]
        outcomes += [trial.lasting(name) for name in LASTING]
        outcomes += trial.kills(options.kills, random.Random(options.seed))
    failed = [outcome.name for outcome in outcomes if not outcome.passed]
    finish(
        {"scenarios": len(outcomes), "whole": sum(outcome.whole for outcome in outcomes)},
        {"whole": len(outcomes), "again": "a range per worker and kill"},
        not failed,
        failed=failed,
        again={outcome.name: outcome.again for outcome in outcomes},
        bytes_of_an_import=trial.size,
        range_bytes=TRANSFER.range_bytes,
        workers=TRANSFER.workers,
    )


class Trial:
    """Scenarios against one bucket, each with a store of its own."""

    def __init__(self, bucket: FaultyBucket, folder: Path) -> None:
        self._bucket = bucket
        self._folder = folder
        self._content = bucket.content(LORA)
        self.size = 0
        """Bytes of an undisturbed import; zero until the first scenario ends."""

    def transient(self, name: str) -> Outcome:
        """Inject a transient fault; one call must complete the import."""
        site, started = self._fresh(name), time.monotonic()
        self._bucket.faults = [_copy(fault) for fault in TRANSIENT[name]]
        ended = "in one call"
        try:
            site.run_import()
        except ImportingError as error:
            ended = f"FAILED: {error}"
        if any(fault.times for fault in self._bucket.faults):
            ended = "FAULT NOT INJECTED"
        if not self.size:
            self.size = _pinned_bytes(site)
        # Damage and replacement show at an object's end, so the whole object is downloaded again.
        allowed = {
            "bit flipped": len(self._bucket.content(UNET)),
            "replaced between ranges": len(self._content),
            # A reset discards the bytes in flight.
            "connection reset": TRANSIENT["connection reset"][0].times * TRANSFER.range_bytes,
        }
        outcome = self._outcome(name, ended, site, started, allowed.get(name, 0))
        self._bucket.put(LORA, self._content)
        return outcome

    def lasting(self, name: str) -> Outcome:
        """Inject a lasting fault; the first call must fail cleanly, a second without it succeed."""
        site, started = self._fresh(name), time.monotonic()
        self._bucket.faults = [_copy(fault) for fault in LASTING[name]]
        try:
            site.run_import()
            ended = "NOT REFUSED"
        except ImportingError:
            ended = "refused, then in one call"
        if site.problems(complete=False):
            ended = "LEFT SOMETHING BROKEN"
        self._bucket.faults, self._bucket.bytes_sent = [], 0
        site.run_import()
        return self._outcome(name, ended, site, started, 0)

    def kills(self, count: int, chance: random.Random) -> list[Outcome]:
        """Kill imports at random moments of their work, each followed by an undisturbed one."""
        outcomes = []
        seconds = self._working_seconds()
        for index in range(1, count + 1):
            site, started = self._fresh(f"SIGKILL {index}"), time.monotonic()
            moment = chance.uniform(0.0, seconds)
            process = site.start_import(self._bucket.url)
            self._wait_for_work()
            time.sleep(moment)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            broken = site.problems(complete=False)
            share = self._bucket.bytes_sent / self.size
            process = site.start_import(self._bucket.url)
            _, errors = process.communicate()
            ended = f"killed after {moment:.2f} s, {share:.0%}"
            if broken or process.returncode:
                ended = f"{ended}: {broken or errors[-200:]}"
            allowed = TRANSFER.workers * TRANSFER.range_bytes
            outcomes.append(self._outcome(f"SIGKILL {index}", ended, site, started, allowed))
        return outcomes

    def _working_seconds(self) -> float:
        """Return the seconds of an undisturbed import from its first byte to its end."""
        process = self._fresh("undisturbed").start_import(self._bucket.url)
        self._wait_for_work()
        started = time.monotonic()
        process.communicate()
        return time.monotonic() - started

    def _wait_for_work(self) -> None:
        while not self._bucket.bytes_sent:
            time.sleep(0.002)

    def _fresh(self, name: str) -> Site:
        self._bucket.faults, self._bucket.bytes_sent = [], 0
        site = Site(self._folder / name.replace(" ", "-"))
        assert site.catalog.name == "bucket"
        return site

    def _outcome(self, name: str, ended: str, site: Site, started: float, allowed: int) -> Outcome:
        problems = site.problems()
        again = max(self._bucket.bytes_sent - self.size, 0)
        seconds = time.monotonic() - started
        outcome = Outcome(
            name, "; ".join(problems) or ended, not problems and ended[0].islower(), again,
            allowed, seconds,
        )  # fmt: skip
        print(outcome, flush=True)
        return outcome


def _copy(fault: Fault) -> Fault:
    return Fault(fault.kind, fault.times, fault.skip, fault.status, fault.only)


def _pinned_bytes(site: Site) -> int:
    lock = json.loads(site.catalog_file.with_suffix(".lock.json").read_text(encoding="utf-8"))
    return sum(pin["size"] for files in lock.values() for pin in files.values())


if __name__ == "__main__":
    main()
