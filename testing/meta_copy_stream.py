"""Stream of copies on the meta device: weights arrive in a load's layout, without values."""

from __future__ import annotations

import torch


class MetaEvent:
    """Position in a stream without work."""

    def synchronize(self) -> None:
        """Return at once."""


class MetaCopyStream:
    """Stream of copies between buffers of the meta device."""

    def host_buffer(self, size: int) -> torch.Tensor:
        """Return memory, uint8 [size]."""
        return torch.empty(size, dtype=torch.uint8, device="meta")

    def device_buffer(self, size: int) -> torch.Tensor:
        """Return memory, uint8 [size]."""
        return torch.empty(size, dtype=torch.uint8, device="meta")

    def copy(self, destination: torch.Tensor, source: torch.Tensor) -> None:
        """Copy nothing but check the shapes."""
        destination.copy_(source)

    def record(self) -> MetaEvent:
        """Return an event that has ended."""
        return MetaEvent()
