"""One request inside the engine: who listens, what is done, and how it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from runners.messages import Done, Event, Failed, PaintJob, Queued, Started, Step
from runners.sample import Sample
from runners.spans import RequestSpans

log = structlog.get_logger(__name__)

Emit = Callable[[Event], None]


@dataclass(slots=True)
class Timings:
    """Seconds of a request's life by part; `denoise` is wall time, shared with its batch."""

    queue: float = 0.0
    encode: float = 0.0
    denoise: float = 0.0
    decode: float = 0.0
    save: float = 0.0


class Task:
    """A request's state. Exactly one Done or Failed reaches every subscriber, as the last event.

    Not thread-safe by itself: the engine changes it under its lock.
    """

    def __init__(self, job: PaintJob, arrived: float, emit: Emit) -> None:
        self.job = job
        self.arrived = arrived
        self.over = False
        self.samples: list[Sample] = []
        self.timings = Timings()
        self.spans = RequestSpans(job.traceparent, job.request_id)
        self._previewed = 0.0
        self._pictures: list[bytes | None] = [None] * job.num_images
        self._subscribers = {job.subscriber: emit}

    @property
    def started(self) -> bool:
        """Whether the engine has admitted it."""
        return bool(self.samples)

    @property
    def row_steps(self) -> int:
        """Row-steps still to do, over all pictures."""
        if self.started:
            return sum(sample.remaining * sample.rows for sample in self.samples)
        rows = 2 if self.job.guidance_scale > 1.0 else 1
        return rows * (self.job.steps - self.job.first_step) * self.job.num_images

    @property
    def undelivered(self) -> int:
        """Pictures not yet encoded."""
        return self._pictures.count(None)

    def preview_due(self, now: float, interval: float) -> bool:
        """Whether its callers want a preview, and the last one is `interval` seconds ago; it then
        counts as shown."""
        if not self.job.previews or now - self._previewed < interval:
            return False
        self._previewed = now
        return True

    def join(self, subscriber: str, emit: Emit) -> None:
        """Let another caller wait for the same result."""
        self._subscribers[subscriber] = emit
        emit(Started() if self.started else Queued(0))

    def leave(self, subscriber: str) -> bool:
        """Forget a caller, with a last word; True when nobody is left."""
        emit = self._subscribers.pop(subscriber, None)
        if emit is not None:
            emit(Failed("cancelled", "the caller has left"))
        return not self._subscribers

    def emit(self, event: Event) -> None:
        """Tell every caller, unless the task is over."""
        if not self.over:
            for emit in self._subscribers.values():
                emit(event)

    def progress(self, preview: bytes) -> None:
        """Tell how far the pictures are on average."""
        total = len(self.samples[0].timesteps)
        done = sum(sample.index for sample in self.samples) // len(self.samples)
        self.emit(Step(done, total, preview))

    def fail(self, error: str, message: str, retry_after: float | None = None) -> None:
        """End without a picture; nothing happens if it has ended already."""
        if not self.over:
            log.info("ended", request_id=self.job.request_id, error=error)
        self.emit(Failed(error, message, retry_after))
        self._end()

    def deliver(self, index: int, picture: bytes) -> bool:
        """Take an encoded picture; the last one ends the task, which then returns True."""
        self._pictures[index] = picture
        pictures = tuple(p for p in self._pictures if p is not None)
        if self.over or len(pictures) < len(self._pictures):
            return False
        timings = self.timings
        self.emit(
            Done(
                images=pictures,
                output_format=self.job.output_format,
                scheduler=type(self.samples[0].scheduler).__name__,
                timings={name: getattr(timings, name) for name in Timings.__slots__},
                parameters=self.job.parameters,
                warnings=self.samples[0].warnings,
            )
        )
        self._end()
        return True

    def _end(self) -> None:
        self.over = True
        self._subscribers.clear()
        self.spans.close()
