"""What a run must hold to count as passed: `p95<1.5`, `errors<1%`, `visitors:p99<=800ms`."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from experimance.load.misuse import Misuse, listed
from experimance.load.summary import Figures

SECONDS = ("p50", "p90", "p95", "p99", "p999", "mean", "min", "max")
COUNTS = ("errors", "refused", "stopped", "unsent", "ok")
_PERCENT = "%"
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
_FORM = re.compile(r"\s*(?:([^:<>=]+):)?\s*(\w+)\s*(<=|>=|<|>)\s*(\d+(?:\.\d+)?)\s*(ms|s|%|/s)?\s*")


@dataclass(frozen=True, slots=True)
class Expectation:
    """A figure of all requests, or of one scenario's, and its bound."""

    text: str
    scenario: str | None
    figure: str
    comparison: str
    bound: float
    unit: str

    def judge(self, everything: Figures, scenarios: dict[str, Figures]) -> Verdict:
        """Whether it holds. What was not measured does not."""
        figures = scenarios[self.scenario] if self.scenario else everything
        value = self._value(figures)
        met = not math.isnan(value) and _OPERATORS[self.comparison](value, self.bound)
        shown = "nothing was measured" if math.isnan(value) else f"it is {value:.4g}{self.unit}"
        return Verdict(self.text, met, value, shown)

    def _value(self, figures: Figures) -> float:
        if self.figure in SECONDS:
            seconds = float(getattr(figures.latency, self.figure))
            return seconds * 1000 if self.unit == "ms" else seconds
        if self.figure == "rate":
            return figures.ok_per_second
        name = {"errors": "failed"}.get(self.figure, self.figure)
        count = figures.endings[name] if name in figures.endings else figures.codes.get(name, 0)
        if not figures.requests:
            return math.nan
        return 100 * count / figures.requests if self.unit == _PERCENT else float(count)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How it went with one expectation."""

    expected: str
    met: bool
    value: float
    shown: str

    def document(self) -> dict[str, Any]:
        """For JSON, which has no `nan`."""
        value = None if math.isnan(self.value) else self.value
        return {"expected": self.expected, "met": self.met, "value": value}


def expectation(text: str, scenarios: Sequence[str]) -> Expectation:
    """The expectation that a text states.

    Args:
        text: `[SCENARIO:]FIGURE(<|<=|>|>=)NUMBER[UNIT]`.
        scenarios: the names of those that are sent.

    Raises:
        Misuse: anything else; says what is accepted.
    """
    where = "--expect"
    found = _FORM.fullmatch(text)
    if found is None:
        raise Misuse(where, f"{text!r} is not accepted; use e.g. p95<1.5, p99<=800ms, errors<1%")
    scenario, figure, comparison, bound, unit = found.groups()
    if scenario is not None and scenario.strip() not in scenarios:
        raise Misuse(where, f"{text!r}: no scenario {scenario.strip()!r}; use {listed(scenarios)}")
    is_code = re.fullmatch(r"[a-z][a-z_]*(?:_\d{3})?", figure) is not None
    units: tuple[str, ...]
    if figure in SECONDS:
        units = ("s", "ms")
    elif figure == "rate":
        units = ("/s",)
    elif figure in COUNTS or is_code:
        units = (_PERCENT,)
    else:
        known = listed((*SECONDS, "rate", *COUNTS))
        raise Misuse(where, f"{text!r}: no figure {figure!r}; use {known} or an error code")
    if unit is not None and unit not in units:
        raise Misuse(where, f"{text!r}: {figure} has no unit {unit}; use none or {listed(units)}")
    unit = unit or {"s": "s", "/s": "/s"}.get(units[0], "")
    return Expectation(
        text.strip(), scenario and scenario.strip(), figure, comparison, float(bound), unit
    )
