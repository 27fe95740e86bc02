"""How a level, of arrivals per second or of clients, changes over a run."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from experimance.load.misuse import Misuse

LONGEST_SECONDS = 24 * 3600.0
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_NUMBER = r"\d+(?:\.\d+)?"
_DURATION = re.compile(rf"({_NUMBER})\s*(ms|s|m|h)?")
_STAGE = re.compile(rf"({_NUMBER})(?:\.\.({_NUMBER}))?(?::(.+))?")
_STAGES_ACCEPTED = "a level (2), a ramp (1..5), or stages of both (1..5:30s,5:60s)"


def seconds_of(text: str | float, where: str) -> float:
    """Seconds of `90`, `90s`, `1.5m`, `500ms` or `1h`.

    Raises:
        Misuse: no duration, or one of more than a day.
    """
    found = _DURATION.fullmatch(str(text).strip())
    if found is None:
        raise Misuse(where, f"{text!r} is no duration; accepted: 90, 90s, 1.5m, 500ms, 1h")
    seconds = float(found[1]) * _UNITS[found[2] or "s"]
    if seconds > LONGEST_SECONDS:
        raise Misuse(where, f"{text!r} is too long; accepted: up to 24h")
    return seconds


@dataclass(frozen=True, slots=True)
class Stage:
    """So many seconds in which the level goes evenly from `start` to `end`."""

    seconds: float
    start: float
    end: float

    @property
    def total(self) -> float:
        """The level added up over the stage: with a rate, how many arrive."""
        return self.seconds * (self.start + self.end) / 2

    def level(self, at: float) -> float:
        """The level so many seconds after the stage's begin."""
        return self.start + (self.end - self.start) * at / self.seconds

    def when(self, total: float) -> float:
        """How many seconds it takes until the level has added up to `total`."""
        if total <= 0:
            return 0.0
        slope = (self.end - self.start) / self.seconds
        root = math.sqrt(max(0.0, self.start**2 + 2 * slope * total))
        return min(self.seconds, 2 * total / (self.start + root))


class Shape:
    """Stages one after the other."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = tuple(stages)
        self._begins = list(itertools.accumulate((s.seconds for s in stages), initial=0.0))
        self._totals = list(itertools.accumulate((s.total for s in stages), initial=0.0))

    @classmethod
    def parse(cls, text: str | float, where: str, seconds: float, most: float) -> Shape:
        """The shape that an option or a key describes.

        Args:
            text: `2`, `1..5` or `1..5:30s,5:60s`.
            where: what to name in a message.
            seconds: how long a stage lasts that does not say so; only the single one may.
            most: the highest level that is accepted.

        Raises:
            Misuse: anything else, or levels out of bounds.
        """
        parts = str(text).split(",")
        stages = []
        for part in parts:
            found = _STAGE.fullmatch(part.strip())
            if found is None:
                raise Misuse(where, f"{part.strip()!r} is not accepted; use {_STAGES_ACCEPTED}")
            if found[3] is None and len(parts) > 1:
                raise Misuse(where, f"{part.strip()!r} has no duration; use {_STAGES_ACCEPTED}")
            start, end = float(found[1]), float(found[2] or found[1])
            if max(start, end) > most:
                raise Misuse(where, f"{part.strip()!r} is too high; accepted: up to {most:g}")
            lasting = seconds if found[3] is None else seconds_of(found[3], where)
            if lasting <= 0:
                raise Misuse(where, f"{part.strip()!r} has no duration; use {_STAGES_ACCEPTED}")
            stages.append(Stage(lasting, start, end))
        shape = cls(stages)
        if shape.total <= 0:
            raise Misuse(where, f"{text!r} never gets above 0; use {_STAGES_ACCEPTED}")
        if shape.seconds > LONGEST_SECONDS:
            raise Misuse(where, f"{text!r} is too long; accepted: up to 24h in all")
        return shape

    def after(self, seconds: float) -> Shape:
        """The same after so many seconds of warm-up at its first level above 0."""
        if not seconds:
            return self
        level = next(v for s in self.stages for v in (s.start, s.end) if v > 0)
        return Shape((Stage(seconds, level, level), *self.stages))

    @property
    def seconds(self) -> float:
        """How long all of it takes."""
        return self._begins[-1]

    @property
    def total(self) -> float:
        """The level added up over everything."""
        return self._totals[-1]

    @property
    def peak(self) -> float:
        """The highest level."""
        return max(max(s.start, s.end) for s in self.stages)

    def level(self, at: float) -> float:
        """The level at a moment; 0 outside."""
        for begin, stage in zip(self._begins, self.stages, strict=False):
            if begin <= at < begin + stage.seconds:
                return stage.level(at - begin)
        return 0.0

    def when(self, total: float) -> float:
        """The moment at which the level has added up to `total`; infinite if it never does."""
        for begin, before, stage in zip(self._begins, self._totals, self.stages, strict=False):
            if total <= before + stage.total:
                return begin + stage.when(total - before)
        return math.inf

    def __str__(self) -> str:
        return ", ".join(
            f"{s.start:g} for {s.seconds:g} s"
            if s.start == s.end
            else f"{s.start:g} to {s.end:g} in {s.seconds:g} s"
            for s in self.stages
        )
