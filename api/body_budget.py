"""The memory that bodies may take all together, from their first byte to their answer."""

from __future__ import annotations

import asyncio

from api.errors import Overloaded

SMALL_BODY = 4 * 2**20
"""Bytes up to which a body that says its length counts as small: a depth map's does."""

_SMALL_BYTES = 128 * 2**20
_LARGE_BYTES = 96 * 2**20
_RETRY_SECONDS = 2.0
_DISCARDED_PER_SECOND = 64 * 2**20


class BodyBudget:
    """Bytes of bodies that have not been answered.

    Small ones have a share of their own, so that large ones, however many, keep none of them out.
    """

    def __init__(self, small: int = _SMALL_BYTES, large: int = _LARGE_BYTES) -> None:
        self._most = {True: small, False: large}
        self._held = {True: 0, False: 0}
        self._turns = asyncio.Lock()

    def open(self, length: int | None) -> Holding:
        """A body's part, with room for the length that it says; None where it says none.

        Raises:
            Overloaded: there is no room.
        """
        holding = Holding(self, length is not None and length <= SMALL_BODY)
        holding.grow(length or 0)
        return holding

    def take(self, is_small: bool, size: int) -> None:
        """Count further bytes; raises Overloaded when there is no room for them."""
        if self._held[is_small] + size > self._most[is_small]:
            kind = "small" if is_small else "large"
            raise Overloaded(
                f"{self._held[is_small] / 2**20:.0f} MiB of {kind} bodies wait for their answers",
                retry_after=_RETRY_SECONDS,
            )
        self._held[is_small] += size

    async def pace(self, size: int) -> None:
        """Wait for as long as the discarding of so many bytes may take.

        However many bodies are refused, receiving what nobody reads leaves the processor to those
        whose pictures are painted; the senders wait.
        """
        async with self._turns:
            await asyncio.sleep(size / _DISCARDED_PER_SECOND)

    def give(self, is_small: bool, size: int) -> None:
        """Count them no more."""
        self._held[is_small] -= size


class Holding:
    """What one body takes of a budget."""

    def __init__(self, budget: BodyBudget, is_small: bool) -> None:
        self._budget = budget
        self._is_small = is_small
        self._size = 0

    def grow(self, size: int) -> None:
        """Take room for a body of at least `size` bytes; raises Overloaded when there is none."""
        if size > self._size:
            self._budget.take(self._is_small, size - self._size)
            self._size = size

    def close(self) -> None:
        """Give all of it back."""
        self._budget.give(self._is_small, self._size)
        self._size = 0
