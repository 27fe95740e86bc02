"""Wait in a test for what has to happen, however slow the machine is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

_PAUSE = 0.02


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Poll until a condition holds; the limit only ends a hang.

    Raises:
        AssertionError: the condition does not hold within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, _message(condition, seconds)
        time.sleep(_PAUSE)


async def eventually(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Poll until a condition holds while the event loop runs on; the limit only ends a hang.

    Raises:
        AssertionError: the condition does not hold within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, _message(condition, seconds)
        await asyncio.sleep(_PAUSE)


def _message(condition: Callable[[], object], seconds: float) -> str:
    place = getattr(condition, "__code__", None)
    where = f" ({place.co_filename}:{place.co_firstlineno})" if place else ""
    return f"{getattr(condition, '__qualname__', condition)}{where}: not within {seconds:.0f} s"
