"""Log of every request, in float64 columns without sampling or binning."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experimance.load.outcomes import PHASES, OutcomeGroup

Column = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Record:
    """One finished request; times are seconds from the start of the run, or NaN.

    Attributes:
        number: Number of the request.
        scenario: Index of its scenario.
        intended: Time at which it was due.
        sent: Time of the first attempt.
        ended: Time at which it ended.
        ending: Group of its outcome.
        code: Outcome code.
        status: HTTP status; 0 without a response.
        attempts: Number of attempts; 0 if it stayed unsent.
        first: Time of a stream's first step event.
        timings: Seconds reported by the server, in the order of `PHASES`.
    """

    number: int
    scenario: int
    intended: float
    sent: float
    ended: float
    ending: OutcomeGroup
    code: str
    status: int = 0
    attempts: int = 1
    first: float = math.nan
    timings: tuple[float, ...] = (math.nan,) * len(PHASES)


_COLUMNS = (
    "number", "scenario", "intended", "sent", "ended", "ending", "code", "status", "attempts",
    "first", *PHASES,
)  # fmt: skip


class RequestLog:
    """Log with one entry per request: opened when due, closed exactly once."""

    def __init__(self, scenarios: Sequence[str]) -> None:
        self.scenarios = tuple(scenarios)
        self.codes: list[str] = []
        self.messages: dict[str, str] = {}
        """First error message by outcome code."""
        self._columns = {name: array("d") for name in _COLUMNS}
        self._open: set[int] = set()

    def open(self, number: int) -> None:
        """Register a due request.

        Raises:
            ValueError: The number is open already.
        """
        if number in self._open:
            raise ValueError(f"request {number} is open already")
        self._open.add(number)

    def close(self, record: Record, message: str = "") -> None:
        """Store the outcome of a request.

        Raises:
            KeyError: The request is not open.
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
    def in_flight(self) -> int:
        """Number of open requests, including those that wait for another attempt."""
        return len(self._open)

    def __len__(self) -> int:
        return len(self._columns["number"])

    def to_columns(self) -> Columns:
        """Return a copy of all closed requests."""
        arrays = {
            name: np.frombuffer(values, dtype=np.float64).copy() if values else np.empty(0)
            for name, values in self._columns.items()
        }
        return Columns(arrays, tuple(self.codes), self.scenarios)


@dataclass(frozen=True)
class Columns:
    """Arrays of equal length by name, float64; `code` and `scenario` are indices of the names."""

    arrays: dict[str, Column]
    codes: tuple[str, ...]
    scenarios: tuple[str, ...]

    def __getitem__(self, name: str) -> Column:
        return self.arrays[name]

    def __len__(self) -> int:
        return len(self.arrays["number"])

    def where(self, mask: NDArray[np.bool_]) -> Columns:
        """Return the rows at which the mask is true."""
        chosen = {name: values[mask] for name, values in self.arrays.items()}
        return Columns(chosen, self.codes, self.scenarios)

    def with_outcome(self, group: OutcomeGroup) -> Columns:
        """Return the rows of one outcome group."""
        return self.where(self["ending"] == group)

    @property
    def latency(self) -> Column:
        """Seconds from the time each request was due."""
        return self["ended"] - self["intended"]

    @property
    def service_time(self) -> Column:
        """Seconds from the time each request was sent, as a closed loop measures them."""
        return self["ended"] - self["sent"]

    @property
    def send_delay(self) -> Column:
        """Seconds between the time each request was due and the time it was sent."""
        return self["sent"] - self["intended"]
