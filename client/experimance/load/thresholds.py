"""Pass criteria of a run, such as `p95<1.5`, `errors<1%` or `visitors:p99<=800ms`."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from experimance.load.cli import UsageError, join_names
from experimance.load.statistics import RequestStats

SECONDS = ("p50", "p90", "p95", "p99", "p999", "mean", "min", "max")
COUNTS = ("errors", "refused", "stopped", "unsent", "ok")
_PERCENT = "%"
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
_FORM = re.compile(r"\s*(?:([^:<>=]+):)?\s*(\w+)\s*(<=|>=|<|>)\s*(\d+(?:\.\d+)?)\s*(ms|s|%|/s)?\s*")


@dataclass(frozen=True, slots=True)
class Threshold:
    """Bound of a figure, of all requests or of one scenario's."""

    text: str
    scenario: str | None
    figure: str
    comparison: str
    bound: float
    unit: str

    def evaluate(self, total: RequestStats, scenarios: dict[str, RequestStats]) -> ThresholdResult:
        """Compare the figure with its bound; a figure that was not measured misses it."""
        value = self._value(scenarios[self.scenario] if self.scenario else total)
        if math.isnan(value):
            return ThresholdResult(self.text, False, value, "nothing was measured")
        met = _OPERATORS[self.comparison](value, self.bound)
        return ThresholdResult(self.text, met, value, f"it is {value:.4g}{self.unit}")

    def _value(self, stats: RequestStats) -> float:
        if self.figure in SECONDS:
            seconds = float(getattr(stats.latency, self.figure))
            return seconds * 1000 if self.unit == "ms" else seconds
        if self.figure == "rate":
            return stats.ok_per_second
        name = "failed" if self.figure == "errors" else self.figure
        count = stats.endings[name] if name in stats.endings else stats.codes.get(name, 0)
        if not stats.requests:
            return math.nan
        return 100 * count / stats.requests if self.unit == _PERCENT else float(count)


@dataclass(frozen=True, slots=True)
class ThresholdResult:
    """Measured value of a threshold, and whether it was met."""

    expected: str
    met: bool
    value: float
    shown: str

    def document(self) -> dict[str, Any]:
        """Return the result for JSON, which has no NaN."""
        value = None if math.isnan(self.value) else self.value
        return {"expected": self.expected, "met": self.met, "value": value}


def parse_threshold(text: str, scenarios: Sequence[str]) -> Threshold:
    """Return the threshold that a text states.

    Args:
        text: `[SCENARIO:]FIGURE(<|<=|>|>=)NUMBER[UNIT]`.
        scenarios: Names of the mix.

    Raises:
        UsageError: The text has another form; the error lists the accepted ones.
    """
    where = "--expect"
    found = _FORM.fullmatch(text)
    if found is None:
        accepted = "p95<1.5, p99<=800ms, errors<1%"
        raise UsageError(where, f"{text!r} is not accepted; use e.g. {accepted}")
    scenario, figure, comparison, bound, unit = found.groups()
    scenario = scenario and scenario.strip()
    if scenario is not None and scenario not in scenarios:
        raise UsageError(where, f"{text!r}: no scenario {scenario!r}; use {join_names(scenarios)}")
    is_code = re.fullmatch(r"[a-z][a-z_]*(?:_\d{3})?", figure) is not None
    units: tuple[str, ...]
    if figure in SECONDS:
        units = ("s", "ms")
    elif figure == "rate":
        units = ("/s",)
    elif figure in COUNTS or is_code:
        units = (_PERCENT,)
    else:
        known = join_names((*SECONDS, "rate", *COUNTS))
        raise UsageError(where, f"{text!r}: no figure {figure!r}; use {known} or an error code")
    if unit is not None and unit not in units:
        accepted = join_names(units)
        raise UsageError(where, f"{text!r}: {figure} has no unit {unit}; use none or {accepted}")
    unit = unit or {"s": "s", "/s": "/s"}.get(units[0], "")
    return Threshold(text.strip(), scenario, figure, comparison, float(bound), unit)
