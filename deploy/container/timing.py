"""Durations of a test's phases: printed as text in progress, and as JSON at the end."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from deploy.shell import say


@dataclass(slots=True)
class Phases:
    """Recorded durations, in seconds, and other facts of a test."""

    seconds: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure the duration of the context, even if it raises."""
        say(f"== {name}")
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - started, 1)
            say(f"== {name}: {self.seconds[name]} s")

    def report(self, passed: bool) -> str:
        """Return the final JSON line; its `figure` is the total duration in seconds."""
        figure = round(time.monotonic() - self._began, 1)
        line = {"figure": figure, "pass": passed, "seconds": self.seconds, **self.facts}
        return json.dumps(line)
