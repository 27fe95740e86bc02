"""Percentiles by nearest rank, over every value.

The p-th percentile is the smallest measured value that at least p percent of the values do not
exceed. It is a latency that somebody had, never a mean of two.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from experimance.load.ledger import Column

METHOD = "nearest rank over all values: the smallest that at least p % of them do not exceed"
_SHARES = (50, 90, 95, 99, 99.9)


def percentile(values: Column, share: float) -> float:
    """The percentile of `share` percent; `nan` of nothing."""
    if not len(values):
        return float("nan")
    return float(np.percentile(values, share, method="inverted_cdf"))


@dataclass(frozen=True, slots=True)
class Spread:
    """How values in seconds spread; `nan` of nothing."""

    count: int
    mean: float
    min: float
    p50: float
    p90: float
    p95: float
    p99: float
    p999: float
    max: float

    @classmethod
    def of(cls, values: Column) -> Spread:
        """All of them at once."""
        if not len(values):
            return cls(0, *(float("nan"),) * 8)
        p50, p90, p95, p99, p999 = (
            float(value) for value in np.percentile(values, _SHARES, method="inverted_cdf")
        )
        low, mean, high = float(values.min()), float(values.mean()), float(values.max())
        return cls(len(values), mean, low, p50, p90, p95, p99, p999, high)

    def document(self) -> dict[str, float | int | None]:
        """For JSON, which has no `nan`."""
        return {k: None if v != v else v for k, v in asdict(self).items()}
