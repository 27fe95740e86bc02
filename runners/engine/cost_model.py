"""Measured costs of work on this device, for batch sizes, deadlines and wait estimates."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

from runners.engine.request_state import RequestState

_FAST_WEIGHT, _SLOW_WEIGHT = 0.2, 0.03
_OUTLIER_FACTOR = 2.0
_MAX_COST_RATIO = 0.95
_MAX_BATCH_ROWS = 8

Name = TypeVar("Name", bound=Hashable)


class CostModel:
    """Moving averages of seconds per step, decode and preparation.

    Slower observations get more weight than faster ones. An estimate that is too low admits
    requests that then wait longer than the queue's bound. Observations faster by more than half,
    as after a cold start, get the higher weight too.

    The model assumes a cost proportional to rows and pixels. That holds on a saturated device and
    overestimates otherwise. `max_batch_rows` bounds a batch, because more rows do not lower the
    cost per image and only delay the first one.
    """

    def __init__(self, max_batch_rows: int = 2) -> None:
        self.max_batch_rows = max_batch_rows
        self._step_rate: dict[str, float] = {}
        self._decode_rate: dict[tuple[str, str], float] = {}
        self._encode_rate: dict[tuple[str, bool], float] = {}
        self._merge_seconds: dict[str, float] = {}

    def observe_step(self, variant: str, pixels: int, seconds: float) -> None:
        """Record the duration of a step.

        Args:
            variant: name of the model.
            pixels: height x width, summed over the batch's rows.
            seconds: duration of the step.
        """
        _update_rate(self._step_rate, variant, seconds / pixels)

    def observe_decode(self, variant: str, decoder: str, pixels: int, seconds: float) -> None:
        """Record the duration of a decode.

        Args:
            variant: name of the model.
            decoder: `full` or `tiny`.
            pixels: height x width.
            seconds: duration of the decode.
        """
        _update_rate(self._decode_rate, (variant, decoder), seconds / pixels)

    def observe_encode(self, variant: str, image: bool, pixels: int, seconds: float) -> None:
        """Record the duration of preparing a request's prompt, depth map and init image.

        Args:
            variant: name of the model.
            image: whether the request has an init image.
            pixels: height x width.
            seconds: duration of the preparation.
        """
        _update_rate(self._encode_rate, (variant, image), seconds / pixels)

    def observe_merge(self, variant: str, seconds: float) -> None:
        """Record the duration of merging a set of LoRAs.

        Args:
            variant: name of the model.
            seconds: duration of the change.
        """
        _update_rate(self._merge_seconds, variant, seconds)

    def merge_seconds(self, variant: str) -> float:
        """Return the expected seconds of merging a set of LoRAs; 0 before the first."""
        return self._merge_seconds.get(variant, 0.0)

    def encode_seconds(self, variant: str, image: bool, pixels: int) -> float:
        """Return the expected seconds of preparing a request; 0 before the first measurement.

        Args:
            variant: name of the model.
            image: whether the request has an init image.
            pixels: height x width.
        """
        return pixels * self._encode_rate.get((variant, image), 0.0)

    def seconds(
        self, variant: str, decoder: str, pixels: int, row_steps: int, pictures: int
    ) -> float:
        """Return the expected seconds of row-steps and decodes; unmeasured parts count as 0.

        Args:
            variant: name of the model.
            decoder: `full` or `tiny`.
            pixels: height x width of one image.
            row_steps: number of steps, multiplied by the rows of each.
            pictures: number of images to decode.
        """
        step = self._step_rate.get(variant, 0.0)
        decode = self._decode_rate.get((variant, decoder), 0.0)
        return pixels * (row_steps * step + pictures * decode)

    def task_seconds(self, task: RequestState) -> float:
        """Return the expected seconds of a request's remaining work."""
        job = task.job
        pixels = job.height * job.width
        steps, pictures = task.row_steps, task.pending_images
        seconds = self.seconds(job.model, job.decoder, pixels, steps, pictures)
        if task.started:
            return seconds
        # Each request may need another set than the one before it.
        merge = self.merge_seconds(job.model) if job.loras else 0.0
        return seconds + merge + self.encode_seconds(job.model, bool(job.image), pixels)

    def calibrate(self, measure: Callable[[int], float]) -> None:
        """Set `max_batch_rows` by doubling it while the cost per row falls by at least 5 %.

        Args:
            measure: function from a number of rows to the seconds of one step; infinite if the
                batch does not fit into memory.
        """
        rows, best = 1, measure(1)
        while rows < _MAX_BATCH_ROWS:
            row_seconds = measure(2 * rows) / (2 * rows)
            if row_seconds > _MAX_COST_RATIO * best:
                break
            rows, best = 2 * rows, row_seconds
        self.max_batch_rows = rows


def _update_rate(rates: dict[Name, float], name: Name, rate: float) -> None:
    known = rates.get(name, rate)
    within_noise = known / _OUTLIER_FACTOR < rate < known
    weight = _SLOW_WEIGHT if within_noise else _FAST_WEIGHT
    # Clip outliers, because a single stalled operation does not predict the next one.
    rates[name] = known + weight * (min(rate, _OUTLIER_FACTOR * known) - known)
