"""Memory budget for request bodies, from their first byte to their response."""

from __future__ import annotations

import asyncio

from api.errors import Overloaded

SMALL_BODY = 4 * 2**20
"""Maximum bytes of a small body with a Content-Length; requests with a depth map are small."""

_SMALL_BYTES = 128 * 2**20
_LARGE_BYTES = 96 * 2**20
_RETRY_SECONDS = 2.0
_DISCARDED_PER_SECOND = 64 * 2**20
_BURST = 4 * 2**20


class BodyBudget:
    """Bytes of request bodies without a complete response.

    Small bodies have a separate share, so that large bodies cannot displace them.
    """

    def __init__(self, small: int = _SMALL_BYTES, large: int = _LARGE_BYTES) -> None:
        self._limits = {True: small, False: large}
        self._held = {True: 0, False: 0}
        self._turns = asyncio.Lock()
        self._discarded = 0

    def open(self, length: int | None) -> Holding:
        """Reserve room for a body of the given length in bytes; None if the length is unknown.

        Raises:
            Overloaded: the budget has no room.
        """
        holding = Holding(self, length is not None and length <= SMALL_BODY)
        holding.grow(length or 0)
        return holding

    def take(self, is_small: bool, size: int) -> None:
        """Reserve further bytes.

        Raises:
            Overloaded: the budget has no room.
        """
        if self._held[is_small] + size > self._limits[is_small]:
            kind = "small" if is_small else "large"
            raise Overloaded(
                f"{self._held[is_small] / 2**20:.0f} MiB of {kind} bodies await responses",
                retry_after=_RETRY_SECONDS,
            )
        self._held[is_small] += size

    async def pace(self, size: int) -> None:
        """Account for discarded bytes; wait once they make up a burst.

        The senders of rejected bodies wait, so that receiving them does not take processor time
        from accepted requests. Bursts instead of pieces keep the number of wake-ups low.
        """
        self._discarded += size
        if self._discarded < _BURST:
            return
        async with self._turns:
            burst, self._discarded = self._discarded, 0
            await asyncio.sleep(burst / _DISCARDED_PER_SECOND)

    def give(self, is_small: bool, size: int) -> None:
        """Release reserved bytes."""
        self._held[is_small] -= size


class Holding:
    """Share of a budget that one body holds."""

    def __init__(self, budget: BodyBudget, is_small: bool) -> None:
        self._budget = budget
        self._is_small = is_small
        self._size = 0

    def grow(self, size: int) -> None:
        """Reserve room for a body of at least `size` bytes.

        Raises:
            Overloaded: the budget has no room.
        """
        if size > self._size:
            self._budget.take(self._is_small, size - self._size)
            self._size = size

    def close(self) -> None:
        """Release the whole share."""
        self._budget.give(self._is_small, self._size)
        self._size = 0
