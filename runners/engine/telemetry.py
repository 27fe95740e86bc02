"""Log lines, metrics and spans of the engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog

from common.protocol import JobFailed
from runners import metrics
from runners.device_faults import is_out_of_memory
from runners.diffusion.sample import Sample
from runners.diffusion.vae import Pixels
from runners.engine.request_state import RequestState
from runners.errors import NonFiniteError

log = structlog.get_logger(__name__)


class EngineTelemetry:
    """Recorder of logs, metrics and spans after each engine event; all durations are in seconds.

    It reads no tensor, so it never synchronizes with the device. `on_step` runs in the loop and
    writes no log line.
    """

    def __init__(self) -> None:
        self._model: str | None = None
        self._loras: Any = None

    def on_prepared(self, task: RequestState, seconds: float) -> None:
        """Record how long the device prepared a request's inputs."""
        metrics.ENCODE_SECONDS.observe(seconds)
        task.spans.add("encode", seconds)

    def on_admitted(self, task: RequestState, ended_ago: float) -> None:
        """Record that a request was admitted, with its `queue` timing.

        Args:
            task: the request.
            ended_ago: seconds since it left the queue.
        """
        timings = task.timings
        metrics.QUEUE_SECONDS.observe(timings.queue)
        task.spans.add("queue", timings.queue, ended_ago=ended_ago)
        log.info(
            "started",
            request_id=task.job.request_id,
            model=task.job.model,
            queue=round(timings.queue, 4),
        )

    def on_step(self, batch: Mapping[Sample, RequestState], seconds: float) -> None:
        """Record one step of one batch."""
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
            task.spans.accumulate("denoise", seconds)

    def on_split(self, samples: int, error: Exception) -> None:
        """Record that a batch failed and is retried, in halves unless it is a single sample."""
        if is_out_of_memory(error):
            metrics.MEMORY_RETRIES.inc()
        log.warning("batch failed and is retried", samples=samples, error=type(error).__name__)

    def on_decoded(self, task: RequestState, seconds: float) -> None:
        """Record how long the device decoded an image."""
        metrics.DECODE_SECONDS.labels(task.job.decoder).observe(seconds)
        task.spans.add("decode", seconds)

    def on_encoded(self, task: RequestState, seconds: float, pixels: Pixels) -> None:
        """Record that an image is encoded; called on the encoding thread.

        Args:
            task: the request of the image.
            seconds: duration of the encoding.
            pixels: uint8 [h, w, 3].
        """
        metrics.SAVE_SECONDS.labels(task.job.output_format).observe(seconds)
        metrics.PICTURES.labels(task.job.model).inc()
        task.spans.add("save", seconds)
        if not pixels.any():
            metrics.BLACK_PICTURES.inc()
            log.warning("black picture", request_id=task.job.request_id, model=task.job.model)

    def on_finished(self, task: RequestState) -> None:
        """Record that every image of a request was delivered."""
        job = task.job
        log.info(
            "finished",
            request_id=job.request_id,
            model=job.model,
            steps=job.steps,
            pictures=job.num_images,
            **{name: round(getattr(task.timings, name), 4) for name in task.timings.__slots__},
        )

    def on_overflow(self, task: RequestState) -> None:
        """Record that a decode overflowed in float16 and is retried in float32."""
        log.warning("decoded again in float32", request_id=task.job.request_id)

    def on_repeat(self, task: RequestState) -> None:
        """Record that an image is not finite and is generated again with sums in float32."""
        log.warning("generated again with sums in float32", request_id=task.job.request_id)

    def on_failed(self, task: RequestState, failure: JobFailed, error: Exception) -> None:
        """Record that a request failed, with the traceback unless the request was invalid.

        Args:
            task: the failed request.
            failure: the API error.
            error: the exception.
        """
        if failure.error == "invalid_request":
            return
        if isinstance(error, NonFiniteError):
            metrics.NOT_FINITE_PICTURES.inc()
        log.error("request failed", request_id=task.job.request_id, exc_info=error)
