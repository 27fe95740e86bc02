"""An event loop whose clock jumps to its next timer instead of waiting for it.

Timers and sleeps take no real time, and however slow the machine is, what is ready runs before the
next timer. While a thread works for the loop, the clock stands still.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar
from unittest import mock

P = ParamSpec("P")
T = TypeVar("T")

_HANG_SECONDS = 60.0
_LONGEST_RUN = 3600.0


class _JumpingSelector(selectors.SelectSelector):
    """A selector that lets the clock pass where it would wait for the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.threads = 0
        self._end = self.now + _LONGEST_RUN

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and not (self.threads and timeout > 0):
            found = super().select(0)
            if not found and timeout > 0:
                self.now += timeout
                if self.now > self._end:
                    raise TimeoutError("still running after an hour of virtual time")
            return found
        found = super().select(_HANG_SECONDS)
        if not found:
            raise TimeoutError(f"nothing has happened for {_HANG_SECONDS:.0f} s")
        return found


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    def advance(self, seconds: float) -> None:
        """Let time pass in which the loop is held up."""
        self._jumping.now += seconds

    def run_in_executor(self, *arguments: Any) -> Any:
        future = super().run_in_executor(*arguments)
        self._jumping.threads += 1
        future.add_done_callback(self._thread_ended)
        return future

    def _thread_ended(self, _: object) -> None:
        self._jumping.threads -= 1


def running_virtual_loop() -> VirtualTimeLoop:
    """The loop of the test that runs."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    return loop


def run_in_virtual_time(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a loop of its own; `time` tells the loop's time meanwhile."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        now = runner.get_loop().time
        with mock.patch("time.monotonic", now), mock.patch("time.perf_counter", now):
            return runner.run(work)


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Decorate an asynchronous test that runs in virtual time."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        run_in_virtual_time(test(*args, **kwargs))

    return run
