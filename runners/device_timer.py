"""Durations of work on a device, which the host learns after the work has ended."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import torch

from runners.device import Device


class Span(Protocol):
    """Duration of the work that was launched between two moments."""

    def stop(self) -> None:
        """End the span after the work launched so far."""

    @property
    def seconds(self) -> float | None:
        """Seconds of the work on the device; None until it has ended."""


class HostSpan:
    """Span by the host's clock, for devices without events.

    Args:
        clock: the clock, in seconds.
        wait: function that waits until the device has ended its work.
    """

    def __init__(self, clock: Callable[[], float], wait: Callable[[], object]) -> None:
        self._clock = clock
        self._wait = wait
        self._started = clock()
        self._seconds: float | None = None

    def stop(self) -> None:
        """End the span when the device has ended its work."""
        self._wait()
        self._seconds = self._clock() - self._started

    @property
    def seconds(self) -> float | None:
        """Seconds between construction and `stop`."""
        return self._seconds


class CudaSpan:
    """Span between two events of the current stream.

    Work that was queued before the span does not count, however long the host waits for it.
    """

    def __init__(self) -> None:
        self._start = _record_event()
        self._end: torch.cuda.Event | None = None

    def stop(self) -> None:
        """Record the end after the work launched so far."""
        self._end = _record_event()

    @property
    def seconds(self) -> float | None:
        """Seconds between the events on the device; None until the second has been reached."""
        if self._end is None or not self._end.query():  # type: ignore[no-untyped-call]
            return None
        milliseconds: float = self._start.elapsed_time(self._end)
        return milliseconds / 1000


class DeviceTimer:
    """Measurements of one device, reported in the order of the work. Thread-safe.

    Args:
        device: the device.
        clock: the clock of devices without events, in seconds.
    """

    def __init__(self, device: Device, clock: Callable[[], float] = time.perf_counter) -> None:
        self._on_gpu = device.torch_device.type == "cuda"
        self._wait = torch.mps.synchronize if device.torch_device.type == "mps" else _wait_for_cpu
        self._clock = clock
        self._lock = threading.Lock()
        self._pending: deque[tuple[Span, Callable[[float], None]]] = deque()

    def start(self) -> Span:
        """Start a span on the calling thread's current stream."""
        return CudaSpan() if self._on_gpu else HostSpan(self._clock, self._wait)

    def stop(self, span: Span, report: Callable[[float], None]) -> None:
        """End a span and report its seconds, now or at a later `settle`.

        Args:
            span: a span of this timer.
            report: function that receives the seconds; one runs at a time.
        """
        span.stop()
        with self._lock:
            self._pending.append((span, report))
        self.settle()

    def settle(self) -> None:
        """Report the spans that have ended and whose predecessors were reported."""
        with self._lock:
            while self._pending:
                span, report = self._pending[0]
                seconds = span.seconds
                if seconds is None:
                    return
                self._pending.popleft()
                report(seconds)


def _wait_for_cpu() -> None:
    """Return at once, because a CPU runs work when it is launched."""


def _record_event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event
