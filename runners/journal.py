"""What the engine tells the world about its work: log lines, metrics and spans."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog
import torch

from runners import metrics
from runners.decode import NotFiniteError, Pixels
from runners.messages import Failed
from runners.sample import Sample
from runners.task import Task

log = structlog.get_logger(__name__)


class Journal:
    """Told of every event when it is over; all durations in seconds.

    Costs the device nothing: it reads no tensor. `stepped` is called in the loop and only counts.
    """

    def __init__(self) -> None:
        self._model: str | None = None
        self._loras: Any = None

    def admitted(self, task: Task) -> None:
        """A request has its samples; its timings tell how long it waited and was prepared."""
        timings = task.timings
        metrics.QUEUE_SECONDS.observe(timings.queue)
        metrics.ENCODE_SECONDS.observe(timings.encode)
        task.spans.add("queue", timings.queue, ended_ago=timings.encode)
        task.spans.add("encode", timings.encode)
        log.info(
            "started",
            request_id=task.job.request_id,
            model=task.job.model,
            queue=round(timings.queue, 4),
        )

    def stepped(self, batch: Mapping[Sample, Task], seconds: float) -> None:
        """One step of one batch."""
        job = next(iter(batch)).job
        if self._model not in {None, job.model}:
            metrics.VARIANT_SWITCHES.inc()
        if self._loras not in {None, job.loras}:
            metrics.ADAPTER_SWITCHES.inc()
        self._model, self._loras = job.model, job.loras
        metrics.TICK_SECONDS.labels(job.model).observe(seconds)
        metrics.BATCH_SIZE.observe(len(batch))
        metrics.STEPS.labels(job.model).inc(len(batch))
        for task in dict.fromkeys(batch.values()):
            task.spans.extend("denoise", seconds)

    def halved(self, samples: int, error: Exception) -> None:
        """A batch of so many samples failed and is tried again in halves."""
        if isinstance(error, torch.OutOfMemoryError):
            metrics.MEMORY_RETRIES.inc()
        log.warning("batch failed and is halved", samples=samples, error=type(error).__name__)

    def decoded(self, task: Task, seconds: float) -> None:
        """One picture's pixels are in host memory."""
        metrics.DECODE_SECONDS.labels(task.job.decoder).observe(seconds)
        task.spans.add("decode", seconds)

    def saved(self, task: Task, seconds: float, pixels: Pixels) -> None:
        """One picture is a file; called on the thread that encoded it."""
        metrics.SAVE_SECONDS.labels(task.job.output_format).observe(seconds)
        metrics.PICTURES.labels(task.job.model).inc()
        task.spans.add("save", seconds)
        if not pixels.any():
            metrics.BLACK_PICTURES.inc()
            log.warning("black picture", request_id=task.job.request_id, model=task.job.model)

    def finished(self, task: Task) -> None:
        """Every picture of a request has been delivered."""
        job = task.job
        log.info(
            "finished",
            request_id=job.request_id,
            model=job.model,
            steps=job.steps,
            pictures=job.num_images,
            **{name: round(getattr(task.timings, name), 4) for name in task.timings.__slots__},
        )

    def overflowed(self, task: Task) -> None:
        """A decoder left the range of float16 and is tried again in float32."""
        log.warning("decoded again in float32", request_id=task.job.request_id)

    def failed(self, task: Task, failure: Failed, error: Exception) -> None:
        """A request ends because of an exception, which the line has with its traceback, unless
        it is the caller's mistake."""
        if failure.error == "invalid_request":
            return
        if isinstance(error, NotFiniteError):
            metrics.NOT_FINITE_PICTURES.inc()
        log.error("request failed", request_id=task.job.request_id, exc_info=error)
