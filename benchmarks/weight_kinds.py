"""Kinds of weight files: each applied exactly, applied with named parts left out, or refused.

    python -m benchmarks.weight_kinds [--group adapters]

Every kind is a small file that goes through the real import into a store. An adapter that is
accepted is applied by the runner's LoraManager, merged and as low-rank products, and compared with
the formula of its authors, with peft or with diffusers. Exits with status 1 if a kind is silent (a
wrong result without a warning), late (imported, but not applied), unclear (without the cause), or
has another outcome than expected.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks.support.report import finish
from benchmarks.support.weights.kind import Kind
from benchmarks.support.weights.table import GROUPS
from benchmarks.support.weights.trial import MAX_ERROR, KindTrial, Verdict

_MAX_SAID = 96


def main() -> None:
    """Judge every kind and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--group", default="", help="judge only groups whose name contains this")
    options = parser.parse_args()
    chosen = {name: make() for name, make in GROUPS.items() if options.group in name}
    if not chosen:
        parser.error(f"--group: no group contains {options.group!r}; groups: {', '.join(GROUPS)}")
    # Libraries warn of files that their own newer versions would not write.
    warnings.simplefilter("ignore")
    wrong, outcomes, errors = [], Counter[str](), []
    for group, kind, verdict in judge_all(chosen):
        outcomes[kind.outcome] += 1
        if verdict.found != kind.outcome:
            wrong.append(f"{group}: {kind.name}: {verdict.found}")
        if verdict.error is not None:
            errors.append(verdict.error)
    finish(
        len(wrong),
        0,
        not wrong,
        wrong=wrong,
        kinds=outcomes.total(),
        outcomes=dict(outcomes),
        largest_error=max(errors, default=0.0),
        largest_accepted_error=MAX_ERROR,
    )


def judge_all(groups: dict[str, list[Kind]]) -> Iterator[tuple[str, Kind, Verdict]]:
    """Judge the kinds of groups, print a line for each, and yield its group and verdict."""
    with tempfile.TemporaryDirectory() as folder, KindTrial(Path(folder)).opened() as trial:
        for group, kinds in groups.items():
            print(f"\n{group}")
            for kind in kinds:
                verdict = trial.judge(kind)
                print(describe(kind, verdict), flush=True)
                yield group, kind, verdict


def describe(kind: Kind, verdict: Verdict) -> str:
    """Return a kind's line of the table."""
    found = verdict.found if verdict.found == kind.outcome else f"WRONG: {verdict.found}"
    error = "" if verdict.error is None else f"{verdict.error:.1e}"
    said = verdict.said
    if len(said) > _MAX_SAID:
        said = f"{said[:_MAX_SAID]}…"
    return f"  {kind.name:<40} {found:<16} {error:>8}  {said}".rstrip()


if __name__ == "__main__":
    main()
