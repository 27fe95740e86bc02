"""How long each part of the test took, for people as it goes and for programs at the end."""

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
    """What has been measured so far."""

    seconds: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what is inside, whether or not it succeeds."""
        say(f"== {name}")
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - started, 1)
            say(f"== {name}: {self.seconds[name]} s")

    def report(self, passed: bool) -> str:
        """The line that ends the test; its figure is the seconds of all of it."""
        figure = round(time.monotonic() - self._began, 1)
        line = {"figure": figure, "pass": passed, "seconds": self.seconds, **self.facts}
        return json.dumps(line)
