"""Outcomes of loads: errors for the status, durations for metrics and estimates."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from runners.errors import LoadError
from runners.metrics import LOAD_FAILURES, LOAD_SECONDS
from runners.weights.load_rate import LoadRate


class LoadRecorder:
    """Recorder of loads; `errors` has the message of each entry whose last load failed."""

    def __init__(self) -> None:
        self.errors: dict[str, str] = {}
        self.rate = LoadRate()

    def fail(self, what: str, name: str, message: str) -> None:
        """Record the reason for which an entry is not loaded."""
        self.errors[f"{what} {name}"] = message

    @contextlib.contextmanager
    def recording(
        self, what: str, name: str, explain: Callable[[Exception], str], size: int = 0
    ) -> Iterator[None]:
        """Record the load in the context.

        Args:
            what: kind of the entry, for metrics and messages.
            name: name of the entry.
            explain: function that returns the message for an exception other than LoadError.
            size: bytes that arrive on the device; 0 if they say nothing about later loads.

        Raises:
            LoadError: the load failed.
        """
        started = time.monotonic()
        try:
            yield
        except Exception as error:
            message = str(error) if isinstance(error, LoadError) else explain(error)
            self.fail(what, name, message)
            LOAD_FAILURES.labels(what, name).inc()
            if isinstance(error, LoadError):
                raise
            raise LoadError(message) from error
        seconds = time.monotonic() - started
        self.rate.observe(size, seconds)
        LOAD_SECONDS.labels(what, name).observe(seconds)
        self.errors.pop(f"{what} {name}", None)
