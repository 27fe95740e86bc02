"""The end of a run before its time."""

from __future__ import annotations

import asyncio


class Halt:
    """Once called, nobody sleeps on and nothing more is sent. Made inside the event loop."""

    def __init__(self) -> None:
        self._called = asyncio.get_running_loop().create_future()

    def call(self) -> None:
        """End every sleep, now and later."""
        if not self._called.done():
            self._called.set_result(None)

    @property
    def called(self) -> bool:
        """Whether it was."""
        return self._called.done()

    async def sleep(self, seconds: float) -> bool:
        """Sleep so long; False if it was called meanwhile."""
        if seconds <= 0:
            await asyncio.sleep(0)
        elif not self.called:
            await asyncio.wait((self._called,), timeout=seconds)
        return not self.called
