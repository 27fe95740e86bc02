"""How busy the GPU is."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog
import torch

from runners.device import Device

log = structlog.get_logger(__name__)

_SECONDS = 2.0


class GpuLoad:
    """Asks the driver, beside the work: at most every two seconds, and never again if it fails."""

    def __init__(self, device: Device, clock: Callable[[], float] = time.monotonic) -> None:
        self._device = device.torch_device
        self._known = self._device.type == "cuda"
        self._clock = clock
        self._asked = float("-inf")
        self._utilization: float | None = None

    def utilization(self) -> float | None:
        """The share of the last moments in which the GPU computed, 0 to 1; None if unknown."""
        now = self._clock()
        if self._known and now - self._asked >= _SECONDS:
            self._asked = now
            try:
                self._utilization = torch.cuda.utilization(self._device) / 100
            except Exception as error:
                # Drivers, containers and MIG slices refuse this in ways of their own.
                log.warning("the GPU's utilization is not known", error=str(error))
                self._known, self._utilization = False, None
        return self._utilization
