"""What work costs on this device: measured, for batch sizes, deadlines and estimates."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

from runners.task import Task

_SOON, _SLOWLY = 0.2, 0.03
_SURPRISE = 2.0
_WORTHWHILE = 0.95
_LARGEST_BATCH = 8

Name = TypeVar("Name", bound=Hashable)


class CostModel:
    """Seconds per step and per decode, learnt from every one that runs.

    Slower ones count sooner than faster ones: whoever comes while an estimate is too low is taken,
    and then waits longer than the queue's bound. What is faster by more than half, as after a cold
    first one, counts as soon.

    Cost is taken as proportional to rows and pixels, which holds where the device is full, and
    errs to the safe side elsewhere. `max_rows` bounds a batch: beyond it the cost of a picture no
    longer falls, and waiting for others only delays the first.
    """

    def __init__(self, max_rows: int = 2) -> None:
        self.max_rows = max_rows
        self._step_rate: dict[str, float] = {}
        self._decode_rate: dict[tuple[str, str], float] = {}
        self._encode_rate: dict[tuple[str, bool], float] = {}

    def observe_step(self, variant: str, pixels: int, seconds: float) -> None:
        """A step took so long over `pixels`: height x width, summed over the batch's rows."""
        _learn(self._step_rate, variant, seconds / pixels)

    def observe_decode(self, variant: str, decoder: str, pixels: int, seconds: float) -> None:
        """Decoding a picture took so long."""
        _learn(self._decode_rate, (variant, decoder), seconds / pixels)

    def observe_encode(self, variant: str, image: bool, pixels: int, seconds: float) -> None:
        """Preparing a request, its prompt, depth map and possibly its picture, took so long."""
        _learn(self._encode_rate, (variant, image), seconds / pixels)

    def encode_seconds(self, variant: str, image: bool, pixels: int) -> float:
        """Expected seconds of preparing a request; 0 for what was never measured."""
        return pixels * self._encode_rate.get((variant, image), 0.0)

    def seconds(
        self, variant: str, decoder: str, pixels: int, row_steps: int, pictures: int
    ) -> float:
        """Expected seconds for so many row-steps and decodes; 0 for what was never measured."""
        step = self._step_rate.get(variant, 0.0)
        decode = self._decode_rate.get((variant, decoder), 0.0)
        return pixels * (row_steps * step + pictures * decode)

    def task_seconds(self, task: Task) -> float:
        """Expected seconds that a request still costs."""
        job = task.job
        pixels = job.height * job.width
        steps, pictures = task.row_steps, task.undelivered
        seconds = self.seconds(job.model, job.decoder, pixels, steps, pictures)
        if task.started:
            return seconds
        return seconds + self.encode_seconds(job.model, bool(job.image), pixels)

    def calibrate(self, measure: Callable[[int], float]) -> None:
        """Set `max_rows` by doubling while a row still gets cheaper.

        Args:
            measure: seconds of one step with so many rows.
        """
        rows, best = 1, measure(1)
        while rows < _LARGEST_BATCH:
            doubled = measure(2 * rows) / (2 * rows)
            if doubled > _WORTHWHILE * best:
                break
            rows, best = 2 * rows, doubled
        self.max_rows = rows


def _learn(rates: dict[Name, float], name: Name, rate: float) -> None:
    known = rates.get(name, rate)
    within_noise = known / _SURPRISE < rate < known
    share = _SLOWLY if within_noise else _SOON
    # Work that had to wait for something else, once, says little of the next.
    rates[name] = known + share * (min(rate, _SURPRISE * known) - known)
