"""Seconds and memory of loading weights.

    python -m benchmarks.load [--work FOLDER] [--rounds N] [--small]

Makes an SDXL checkpoint and a ControlNet of full size from random numbers, and imports them for a
CPU that computes in bfloat16. Three parts run in processes of their own, each beside the plain way:

1. Conversion: ours, and diffusers' `from_single_file` and `save_pretrained`.
2. Process start to the first finished step: ours, a pipeline from the single file, and reading the
   same bytes from the page cache. The first two exclude the time of a warm step.
3. Loading a second variant that differs in its UNet: bytes mapped or read for it.

The checkpoint is in float16, as published ones are. The pipeline therefore has to cast, and the
store is already cast. Last, 1 and 2 run again with a checkpoint in bfloat16, which needs no cast.
Their figures are under `nothing_cast` and have no bar.

Needs 32 GB of disk and 20 GB of memory, and takes about 10 minutes. The files are deleted at the
end.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.support.load_stages import STARTED
from benchmarks.support.report import finish
from models.conversion.tensor_copy import Dtype
from testing.sdxl_set import (
    CHECKPOINT,
    CONTROLNET,
    TINY_DECODER,
    write_catalog,
    write_checkpoint,
    write_controlnet,
    write_pipeline_folder,
    write_tiny_decoder,
    write_unet,
)
from testing.server import ROOT

BARS = {
    "conversion_peak_gib": 2.5,
    "first_step_to_single_file": 0.5,
    "first_step_to_reading": 1.5,
    "second_variant_bytes_to_own": 1.01,
}
GIB = 2**30
_SECTIONS = ("models", "controlnets")
_BUFFER_BYTES = 8 * 2**20


class Workshop:
    """A folder with the set and a store, and the processes measured in it."""

    def __init__(self, folder: Path, small: bool) -> None:
        self.folder = folder
        self._small = small
        self._environment = {
            **os.environ,
            "BENTOML_HOME": str(folder / "home"),
            "BENTOML_DO_NOT_TRACK": "True",
            "HF_HUB_OFFLINE": "1",
        }

    def run(self, stage: str) -> dict[str, Any]:
        """Run a stage of load_stages, and return its JSON result with memory in bytes.

        Raises:
            RuntimeError: the stage exits with an error.
        """
        command = [sys.executable, "-m", "benchmarks.support.load_stages", stage, str(self.folder)]
        started = time.perf_counter()
        done = subprocess.run(
            command + ["small"] * self._small,
            cwd=ROOT,
            env={**self._environment, STARTED: str(started)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{stage}: {done.stderr[-2000:]}")
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{stage:<26} {result['elapsed']:8.2f} s  {result['peak'] / GIB:6.2f} GiB", flush=True
        )
        return result

    def make(self, tiny_decoder: bool = False) -> None:
        """Write a checkpoint in float16, its companion networks and the catalog."""
        (self.folder / "home").mkdir()
        self.make_checkpoint("float16")
        write_controlnet(self.folder / CONTROLNET, self._small, "bfloat16")
        write_pipeline_folder(self.folder / "pipeline", self._small)
        write_unet(self.folder / "unet", self._small, "bfloat16", seed=2)
        if tiny_decoder:
            write_tiny_decoder(self.folder / TINY_DECODER, "bfloat16")
        write_catalog(self.folder, tiny_decoder)

    def make_checkpoint(self, dtype: Dtype) -> None:
        """Write the checkpoint again in another precision."""
        write_checkpoint(self.folder / CHECKPOINT, self._small, dtype)

    def weights_of(self, section: str, name: str) -> dict[str, Path]:
        """Return the weight files of an entry in the store, by kind of component."""
        return {
            kind: file
            for kind, folder in self._stored[section][name].items()
            for file in Path(folder).glob("*.safetensors")
        }

    @cached_property
    def _stored(self) -> dict[str, dict[str, dict[str, str]]]:
        """Folders of the components in the store after the import, by section and entry."""
        code = (
            "import json, sys; from models.catalog import load_catalog\n"
            "from models.store.inventory import inventory\n"
            "found = inventory(load_catalog(sys.argv[1]))\n"
            "print(json.dumps({section: {name: {k: str(c.path) for k, c in each.components.items()}"
            " for name, each in getattr(found, section).items()} for section in sys.argv[2:]}))"
        )
        command = [sys.executable, "-c", code, str(self.folder / "load.toml"), *_SECTIONS]
        done = subprocess.run(
            command, cwd=ROOT, env=self._environment, capture_output=True, text=True, check=True
        )
        found: dict[str, dict[str, dict[str, str]]] = json.loads(done.stdout)
        return found

    def stored_weights(self) -> list[Path]:
        """List the store's weight files for the first step, also in a file for the stages."""
        found = [
            *self.weights_of("models", "first").values(),
            *self.weights_of("controlnets", "depth").values(),
        ]
        listed = json.dumps([str(path) for path in found])
        (self.folder / "first_files.json").write_text(listed, encoding="utf-8")
        return found

    def published_weights(self) -> list[Path]:
        """Return the weight files for the first step as they were before the import."""
        return [self.folder / CHECKPOINT, *(self.folder / CONTROLNET).glob("*.safetensors")]


def measure_conversion(workshop: Workshop) -> dict[str, Any]:
    """Measure our conversion and diffusers' from a warm page cache, and delete their output."""
    figures: dict[str, Any] = {}
    bare = workshop.run("bare")["peak"]
    for stage in ("split", "plain_split"):
        warm([workshop.folder / CHECKPOINT])
        result = workshop.run(stage)
        figures[f"{stage}_seconds"] = round(result["elapsed"], 1)
        figures[f"{stage}_peak_gib"] = round((result["peak"] - bare) / GIB, 3)
        shutil.rmtree(workshop.folder / "converted")
    return figures


def measure_import(workshop: Workshop) -> dict[str, Any]:
    """Measure the whole import of both variants and the ControlNet."""
    bare = workshop.run("bare")["peak"]
    result = workshop.run("import_set")
    # The store has a copy, and the disk space is needed.
    shutil.rmtree(workshop.folder / "unet")
    return {
        "import_seconds": round(result["elapsed"], 1),
        "import_peak_gib": round((result["peak"] - bare) / GIB, 3),
    }


def measure_first_step(workshop: Workshop, rounds: int) -> dict[str, Any]:
    """Measure the time to our first step and the pipeline's, without a step's own time."""
    files = {
        "first_step": workshop.stored_weights(),
        "plain_first_step": workshop.published_weights(),
    }
    results = take_turns(workshop, files, rounds)
    seconds, steps = {}, {}
    for way, runs in results.items():
        # The last of three steps is warm.
        step = [run["ends"][-1] - run["ends"][-2] for run in runs]
        seconds[way] = statistics.median(
            run["ends"][0] - own for run, own in zip(runs, step, strict=True)
        )
        steps[way] = round(statistics.median(step), 2)
    return {
        "first_step_to_single_file": round(seconds["first_step"] / seconds["plain_first_step"], 3),
        "seconds": {way: round(value, 2) for way, value in seconds.items()},
        "step_seconds": steps,
    }


def measure_reading(workshop: Workshop, ours: float, rounds: int) -> dict[str, Any]:
    """Measure the time to our first step over that of reading the same files.

    Args:
        workshop: the set.
        ours: seconds to our first step.
        rounds: runs of each way; medians count.
    """
    stored = workshop.stored_weights()
    ways = ("read_bytes", "read_bytes_after_imports", "read_past")
    results = take_turns(workshop, dict.fromkeys(ways, stored), rounds)
    seconds = {
        way: statistics.median(run["elapsed"] for run in runs) for way, runs in results.items()
    }
    return {
        "first_step_to_reading": round(ours / seconds["read_bytes"], 3),
        "first_step_to_reading_with_imports": round(ours / seconds["read_bytes_after_imports"], 3),
        "first_step_to_reading_without_keeping": round(ours / seconds["read_past"], 3),
        "reading_seconds": {way: round(value, 2) for way, value in seconds.items()},
        "stored_gb": round(sum(path.stat().st_size for path in stored) / 1e9, 3),
    }


def take_turns(
    workshop: Workshop, files: Mapping[str, Sequence[Path]], rounds: int
) -> dict[str, list[dict[str, Any]]]:
    """Run every stage once per round, with its files in the page cache.

    Args:
        workshop: the set.
        files: files to warm before each stage, by stage.
        rounds: runs of each stage.

    Returns:
        The results of every run, by stage.
    """
    results: dict[str, list[dict[str, Any]]] = {stage: [] for stage in files}
    for _ in range(rounds):
        for stage, needed in files.items():
            warm(needed)
            results[stage].append(workshop.run(stage))
    return results


def measure_second_variant(workshop: Workshop) -> dict[str, Any]:
    """Measure the bytes mapped or read for it, over the size of its only unshared file."""
    first, second = (workshop.weights_of("models", name) for name in ("first", "second"))
    own = sum(path.stat().st_size for kind, path in second.items() if path != first[kind])
    warm(second.values())
    result = workshop.run("second_variant")
    touched = result["mapped"] + result["read"]
    return {
        "second_variant_bytes_to_own": round(touched / own, 4),
        "second_variant_shares_the_rest": result["shared"],
        "second_variant_seconds": round(result["seconds"], 2),
        "second_variant_mapped_bytes": result["mapped"],
        "second_variant_read_bytes": result["read"],
        "second_variant_own_bytes": own,
    }


def warm(files: Iterable[Path]) -> None:
    """Read files into the page cache."""
    buffer = bytearray(_BUFFER_BYTES)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def measure(workshop: Workshop, rounds: int) -> dict[str, Any]:
    """Return all figures; those with a bar have the names in BARS."""
    workshop.make()
    figures = measure_conversion(workshop) | measure_import(workshop)
    figures["conversion_peak_gib"] = max(figures["split_peak_gib"], figures["import_peak_gib"])
    figures |= measure_first_step(workshop, rounds)
    figures |= measure_reading(workshop, figures["seconds"]["first_step"], rounds)
    figures |= measure_second_variant(workshop)
    workshop.make_checkpoint("bfloat16")
    nothing_cast = measure_conversion(workshop) | measure_first_step(workshop, rounds)
    return {**figures, "nothing_cast": nothing_cast}


def main() -> None:
    """Create the set, measure, delete the files, and finish with the four figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=None, help="a folder on a large disk")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--small", action="store_true", help="trial with narrow networks, in seconds"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="load-", dir=options.work) as folder:
        figures = measure(Workshop(Path(folder), options.small), options.rounds)
    figure = {name: figures.pop(name) for name in BARS}
    passed = all(figure[name] <= bar for name, bar in BARS.items())
    shares = figures["second_variant_shares_the_rest"]
    finish(figure, BARS, passed and shares, small=options.small, rounds=options.rounds, **figures)


if __name__ == "__main__":
    main()
