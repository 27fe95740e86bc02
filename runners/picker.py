"""Which samples make the next batch."""

from __future__ import annotations

import math
from collections.abc import Mapping

from runners.sample import GroupKey, Sample


def place_in_line(arrived: float, worked: float, quantum: float) -> float:
    """The moment from which a request counts as waiting: later by every whole quantum of work.

    So requests that take less than a quantum end in the order in which they came, whatever their
    groups, and a longer one is passed by those that came while it was worked on, not step by step
    but a quantum at a time. Nobody starves: newcomers are behind everyone who has waited longer
    than they were worked on. (Least attained service, in quanta: Nuyens and Wierman, 2008, "The
    Foreground-Background queue: a survey".)

    Args:
        arrived: seconds on any clock.
        worked: seconds of steps that the request had a part in.
        quantum: seconds.
    """
    return arrived + quantum * math.floor(worked / quantum)


def pick(pending: Mapping[Sample, float], max_rows: int) -> list[Sample]:
    """The next batch: of the group that is first in line its samples, oldest first.

    Args:
        pending: unfinished samples, oldest first, with their places in line.
        max_rows: bound on the batch; a single sample may exceed it.
    """
    line: dict[GroupKey, float] = {}
    for sample, place in pending.items():
        line.setdefault(sample.group_key, place)
    first = min(line, key=line.__getitem__, default=None)
    batch: list[Sample] = []
    rows = 0
    for sample in pending:
        if sample.group_key != first:
            continue
        if batch and rows + sample.rows > max_rows:
            break
        batch.append(sample)
        rows += sample.rows
    return batch
