"""An emulated stream of copies: each is executed as late as the program allows."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class LateEvent:
    """Position in an emulated stream."""

    stream: LateCopyStream
    position: int

    def synchronize(self) -> None:
        """Execute the copies before this position."""
        self.stream.execute(self.position)


class LateCopyStream:
    """Stream that reads the source of a copy only when the program waits for the copy.

    Memory that is written too early, or read too early, therefore has wrong contents.
    """

    def __init__(self) -> None:
        self.copies: list[int] = []
        """Bytes of each copy."""
        self.host_buffers: list[int] = []
        """Bytes of each allocation of pinned memory."""
        self.device_buffers: list[int] = []
        """Bytes of each allocation on the device."""
        self.waits = 0
        """Number of times that the program waited for copies which had not ended."""
        self._queued: deque[tuple[torch.Tensor, torch.Tensor]] = deque()
        self._executed = 0

    def host_buffer(self, size: int) -> torch.Tensor:
        self.host_buffers.append(size)
        return torch.full((size,), 0xAA, dtype=torch.uint8)

    def device_buffer(self, size: int) -> torch.Tensor:
        self.device_buffers.append(size)
        return torch.full((size,), 0x55, dtype=torch.uint8)

    def copy(self, destination: torch.Tensor, source: torch.Tensor) -> None:
        assert len(destination) == len(source)
        self.copies.append(len(source))
        self._queued.append((destination, source))

    def record(self) -> LateEvent:
        return LateEvent(self, len(self.copies))

    def execute(self, position: int) -> None:
        self.waits += self._executed < position
        while self._executed < position:
            destination, source = self._queued.popleft()
            destination.copy_(source)
            self._executed += 1
