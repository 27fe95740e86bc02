"""State of one request inside the engine: subscribers, progress and outcome."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import structlog

from common.protocol import Event, GenerateJob, JobDone, JobFailed, Queued, Started, Step
from common.tracing import RequestSpans
from runners.diffusion.sample import Sample

log = structlog.get_logger(__name__)

EventSink = Callable[[Event], None]


@dataclass(slots=True)
class Timings:
    """Seconds of a request by phase; `denoise` is the wall time of batches that it shared."""

    queue: float = 0.0
    encode: float = 0.0
    denoise: float = 0.0
    decode: float = 0.0
    save: float = 0.0


class RequestState:
    """Request state whose last event for every subscriber is exactly one JobDone or JobFailed.

    Not thread-safe; the engine modifies it under the queue's lock.

    Args:
        job: the request.
        arrived: arrival time in seconds on the engine's clock.
        emit: receiver of events for the first subscriber.
    """

    def __init__(self, job: GenerateJob, arrived: float, emit: EventSink) -> None:
        self.job = job
        self.arrived = arrived
        self.finished = False
        self.samples: list[Sample] = []
        self.timings = Timings()
        self.spans = RequestSpans(job.traceparent, job.request_id)
        self.preview: Future[None] | None = None
        """The event of a step whose preview is being encoded; later events wait for it."""
        self._last_preview_at = 0.0
        self._images: list[bytes | None] = [None] * job.num_images
        self._subscribers = {job.subscriber: emit}

    @property
    def started(self) -> bool:
        """Whether the engine has admitted the request."""
        return bool(self.samples)

    @property
    def row_steps(self) -> int:
        """Remaining steps, multiplied by rows, over all images."""
        if self.started:
            return sum(sample.remaining_rows for sample in self.samples)
        steps = self.job.steps - self.job.first_step
        return self.job.count_rows(0, steps) * self.job.num_images

    @property
    def pending_images(self) -> int:
        """Number of images that are not yet encoded."""
        return self._images.count(None)

    def preview_due(self, now: float, interval: float) -> bool:
        """Return whether a preview is due, and if so record `now` as the time of the last one.

        Args:
            now: seconds on the engine's clock.
            interval: minimum seconds between two previews.
        """
        if not self.job.previews or now - self._last_preview_at < interval:
            return False
        self._last_preview_at = now
        return True

    def subscribe(self, subscriber: str, emit: EventSink) -> None:
        """Add a caller to the request; it receives all further events."""
        self._subscribers[subscriber] = emit
        emit(Started() if self.started else Queued(0))

    def unsubscribe(self, subscriber: str) -> bool:
        """Remove a caller and send it a final event; return True if no subscriber remains."""
        emit = self._subscribers.pop(subscriber, None)
        if emit is not None:
            emit(JobFailed("cancelled", "the client disconnected"))
        return not self._subscribers

    def emit(self, event: Event) -> None:
        """Send an event to every subscriber unless the request has ended."""
        if not self.finished:
            for emit in self._subscribers.values():
                emit(event)

    def progress(self) -> Step:
        """Return the average progress of all images."""
        total = len(self.samples[0].plan.steps)
        done = sum(sample.index for sample in self.samples) // len(self.samples)
        return Step(done, total)

    def fail(self, error: str, message: str, retry_after: float | None = None) -> None:
        """End the request with an error; do nothing if it has already ended.

        Args:
            error: error code.
            message: error message.
            retry_after: seconds after which the client may retry, if any.
        """
        if not self.finished:
            log.info("ended", request_id=self.job.request_id, error=error)
        self.emit(JobFailed(error, message, retry_after))
        self._end()

    def deliver(
        self, index: int, picture: bytes, on_finished: Callable[[RequestState], None]
    ) -> None:
        """Store an encoded image; the last one ends the request.

        Args:
            index: number of the image.
            picture: the encoded image.
            on_finished: called before the subscribers receive the last event.
        """
        self._images[index] = picture
        images = tuple(p for p in self._images if p is not None)
        if self.finished or len(images) < len(self._images):
            return
        on_finished(self)
        timings = self.timings
        self.emit(
            JobDone(
                images=images,
                output_format=self.job.output_format,
                scheduler=self.samples[0].plan.scheduler,
                timings={name: getattr(timings, name) for name in Timings.__slots__},
                parameters=self.job.parameters,
                warnings=self.samples[0].warnings,
            )
        )
        self._end()

    def _end(self) -> None:
        self.finished = True
        self._subscribers.clear()
        self.spans.close()
