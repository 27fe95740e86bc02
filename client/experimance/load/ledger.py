"""Every request of a run and how it ended, in columns of float64: nothing is sampled or binned."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experimance.load.outcomes import PARTS, Ending

Column = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Record:
    """One request. Moments are seconds from the run's begin, `nan` if they never came.

    `intended` is when it was due, `sent` when it went out (the first time, if it was refused and
    sent again), `first` when the first event of a step arrived, `ended` when it was over.
    """

    number: int
    scenario: int
    intended: float
    sent: float
    ended: float
    ending: Ending
    code: str
    status: int = 0
    attempts: int = 1
    first: float = math.nan
    timings: tuple[float, ...] = (math.nan,) * len(PARTS)


_COLUMNS = (
    "number", "scenario", "intended", "sent", "ended", "ending", "code", "status", "attempts",
    "first", *PARTS,
)  # fmt: skip


class Ledger:
    """Opened for each request when it is due, closed exactly once when it ended."""

    def __init__(self, scenarios: Sequence[str]) -> None:
        self.scenarios = tuple(scenarios)
        self.codes: list[str] = []
        self.messages: dict[str, str] = {}
        """What the server said to the first of each code that is no success."""
        self._columns = {name: array("d") for name in _COLUMNS}
        self._open: set[int] = set()

    def open(self, number: int) -> None:
        """A request is due.

        Raises:
            ValueError: it was before.
        """
        if number in self._open:
            raise ValueError(f"request {number} is open already")
        self._open.add(number)

    def close(self, record: Record, message: str = "") -> None:
        """It ended.

        Raises:
            KeyError: it was not open, or ended before.
        """
        self._open.remove(record.number)
        if record.code not in self.codes:
            self.codes.append(record.code)
            if message:
                self.messages[record.code] = message
        values = (
            record.number, record.scenario, record.intended, record.sent, record.ended,
            record.ending, self.codes.index(record.code), record.status, record.attempts,
            record.first, *record.timings,
        )  # fmt: skip
        for name, value in zip(_COLUMNS, values, strict=True):
            self._columns[name].append(value)

    @property
    def unended(self) -> int:
        """How many are under way, or wait to be sent again."""
        return len(self._open)

    def __len__(self) -> int:
        return len(self._columns["number"])

    def table(self, since: int = 0) -> Table:
        """What has ended by now, from the so-manieth on."""
        columns = {
            name: np.frombuffer(values, dtype=np.float64)[since:].copy() if values else np.empty(0)
            for name, values in self._columns.items()
        }
        return Table(columns, tuple(self.codes), self.scenarios)


@dataclass(frozen=True)
class Table:
    """Columns of equal length by name, all float64; `code` and `scenario` count into the names."""

    columns: dict[str, Column]
    codes: tuple[str, ...]
    scenarios: tuple[str, ...]

    def __getitem__(self, name: str) -> Column:
        return self.columns[name]

    def __len__(self) -> int:
        return len(self.columns["number"])

    def where(self, mask: NDArray[np.bool_]) -> Table:
        """The rows for which the mask holds."""
        chosen = {name: values[mask] for name, values in self.columns.items()}
        return Table(chosen, self.codes, self.scenarios)

    def ended_as(self, ending: Ending) -> Table:
        """The rows of one group."""
        return self.where(self["ending"] == ending)

    @property
    def latency(self) -> Column:
        """Seconds from when each was due."""
        return self["ended"] - self["intended"]

    @property
    def service_time(self) -> Column:
        """Seconds from when each was sent: what a closed loop would have seen."""
        return self["ended"] - self["sent"]

    @property
    def send_delay(self) -> Column:
        """Seconds by which each was sent after it was due."""
        return self["sent"] - self["intended"]
