"""Batch scheduler: selection of the samples for the next step."""

from __future__ import annotations

import math
from collections.abc import Mapping

from runners.diffusion.sample import GroupKey, Sample

QUANTUM_SECONDS = 2.0
"""Work after which a request yields to later arrivals."""


def effective_arrival(arrived: float, worked: float) -> float:
    """Return a request's arrival delayed by its completed quanta of work; lower values run first.

    Requests shorter than a quantum finish in order of arrival, regardless of their groups. A longer
    request yields to later arrivals once per quantum instead of once per step. No request starves,
    because a new one runs after every request that has waited longer than its received work. This
    is least-attained-service scheduling in quanta (Nuyens and Wierman, 2008, "The
    Foreground-Background queue: a survey").

    Args:
        arrived: arrival time in seconds, on any clock.
        worked: seconds of the steps in which the request took part.
    """
    return arrived + QUANTUM_SECONDS * math.floor(worked / QUANTUM_SECONDS)


def next_batch(pending: Mapping[Sample, float], max_batch_rows: int) -> list[Sample]:
    """Return the samples of the next batch, oldest first, all of the group that is due first.

    Args:
        pending: unfinished samples, oldest first, with their effective arrivals.
        max_batch_rows: maximum rows of the batch; a single sample may exceed it.
    """
    group_arrivals: dict[GroupKey, float] = {}
    for sample, arrival in pending.items():
        group_arrivals.setdefault(sample.group_key, arrival)
    first = min(group_arrivals, key=group_arrivals.__getitem__, default=None)
    batch: list[Sample] = []
    rows = 0
    for sample in pending:
        if sample.group_key != first:
            continue
        if batch and rows + sample.batch_rows > max_batch_rows:
            break
        batch.append(sample)
        rows += sample.batch_rows
    return batch
