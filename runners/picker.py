"""Which samples make the next batch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from runners.sample import GroupKey, Sample


class GroupPicker:
    """Picks a group, oldest sample first, and keeps to it for at most a quantum of seconds.

    When the quantum is over and another group waits, the one that was served longest ago has its
    turn; so no group starves, and on a full device requests still run to completion in turn.
    """

    def __init__(self, quantum: float) -> None:
        self._quantum = quantum
        self._turns = itertools.count()
        self._served: dict[GroupKey, int] = {}
        self._current: GroupKey | None = None
        self._since = 0.0

    def pick(self, pending: Sequence[Sample], max_rows: int, now: float) -> list[Sample]:
        """The next batch: samples of one group, oldest first, up to `max_rows` rows.

        Args:
            pending: unfinished samples, oldest first.
            max_rows: bound on the batch; a single sample may exceed it.
            now: seconds on any monotonic clock.
        """
        keys = list(dict.fromkeys(sample.group_key for sample in pending))
        self._served = {key: self._served.get(key, next(self._turns)) for key in keys}
        if not keys:
            self._current = None
            return []
        if self._current not in keys or (len(keys) > 1 and now - self._since >= self._quantum):
            others = [key for key in keys if key != self._current]
            self._current = min(others, key=self._served.__getitem__)
            self._since = now
        self._served[self._current] = next(self._turns)
        batch: list[Sample] = []
        rows = 0
        for sample in pending:
            if sample.group_key != self._current:
                continue
            if batch and rows + sample.rows > max_rows:
                break
            batch.append(sample)
            rows += sample.rows
        return batch
