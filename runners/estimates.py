"""Depth of photographs: each waits for its estimator, then for the device."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future

import numpy as np
import structlog
import torch

from runners import metrics
from runners.decode import NotFiniteError
from runners.engine import Engine
from runners.estimators import Estimator
from runners.failure import failure_of
from runners.loader import Loader
from runners.messages import CancelOrder, Estimated, EstimateJob, Failed
from runners.queue import SUPERSEDED
from runners.residency import estimator_key
from runners.spans import RequestSpans

log = structlog.get_logger(__name__)

Answer = Callable[[Estimated | Failed], None]


class _Estimate:
    """A job and who waits for it; exactly one answer is given, the first."""

    def __init__(self, job: EstimateJob, answer: Answer) -> None:
        self.job = job
        self.over = False
        self._answer = answer

    def end(self, answer: Estimated | Failed) -> None:
        """Tell the outcome, unless another was told before."""
        if not self.over:
            self.over = True
            self._answer(answer)


class Estimates:
    """The photographs of one station. Thread-safe.

    Weights load in the background while pictures are painted. The estimate itself runs on the
    device's thread between two steps, one photograph at a time. At most `max_waiting` wait, and
    none is taken while the engine takes no request.
    """

    def __init__(self, loader: Loader, engine: Engine, max_waiting: int) -> None:
        self._loader = loader
        self._engine = engine
        self._max_waiting = max_waiting
        self._lock = threading.Lock()
        self._alive: list[_Estimate] = []
        loader.estimating = self._in_use

    def submit(self, job: EstimateJob, answer: Answer) -> None:
        """Begin with a job; `answer` is called once, from any thread."""
        estimate = _Estimate(job, answer)
        full = self._engine.full()
        with self._lock:
            waiting = len(self._alive)
            taken = full is None and waiting < self._max_waiting
            if taken:
                self._alive.append(estimate)
        if not taken:
            message = f"{waiting + self._engine.snapshot()[0]} requests are waiting"
            estimate.end(Failed("overloaded", message, full or 1.0))
            return
        self._load(estimate)

    def supersede(self, session: str, arrived: float) -> None:
        """End what a session's newer request replaces."""
        self._end(
            lambda each: each.job.session == session and each.job.arrived < arrived,
            Failed("superseded", SUPERSEDED),
        )

    def cancel(self, order: CancelOrder) -> tuple[str, ...]:
        """End what the order names; returns the request ids."""

        def named(estimate: _Estimate) -> bool:
            if order.subscriber not in {None, estimate.job.subscriber}:
                return False
            return order.names(estimate.job)

        return self._end(named, Failed("cancelled", "the request was cancelled"))

    def waiting(self) -> int:
        """How many have not ended."""
        with self._lock:
            return len(self._alive)

    def close(self) -> None:
        """End everything; for when the engine has stopped."""
        self._end(lambda _: True, Failed("runner_lost", "the runner is stopping"))

    def _load(self, estimate: _Estimate) -> None:
        def loaded(future: Future[None]) -> None:
            try:
                future.result()
            except (Exception, CancelledError) as error:
                self._fail(estimate, error)
            else:
                self._engine.call(lambda: self._run(estimate))

        self._loader.load_estimator(estimate.job.estimator).add_done_callback(loaded)

    def _run(self, estimate: _Estimate) -> None:
        """On the device's thread."""
        if estimate.over:
            return
        job = estimate.job
        estimator = self._loader.residency.use_estimator(job.estimator)
        if estimator is None:
            # It left again before its turn came.
            self._load(estimate)
            return
        started = time.monotonic()
        try:
            depth = self._depth(estimator, job)
        except Exception as error:
            self._fail(estimate, error)
            return
        seconds = time.monotonic() - started
        metrics.ESTIMATE_SECONDS.labels(job.estimator).observe(seconds)
        RequestSpans(job.traceparent, job.request_id).add("estimate", seconds)
        log.info(
            "estimated",
            request_id=job.request_id,
            depth_estimator=job.estimator,
            seconds=round(seconds, 4),
        )
        self._finish(estimate, Estimated(depth, seconds))

    def _depth(self, estimator: Estimator, job: EstimateJob) -> bytes:
        shape = (job.height, job.width, 3)
        picture = np.frombuffer(job.image, np.uint8).reshape(shape)
        try:
            found = estimator.estimate(picture)
        except torch.OutOfMemoryError:
            metrics.MEMORY_RETRIES.inc()
            self._engine.release_memory()
            found = estimator.estimate(picture)
        return found.tobytes()

    def _fail(self, estimate: _Estimate, error: BaseException) -> None:
        if isinstance(error, CancelledError):
            self._finish(estimate, Failed("runner_lost", "the runner is stopping"))
            return
        if isinstance(error, NotFiniteError):
            metrics.NOT_FINITE_PICTURES.inc()
        assert isinstance(error, Exception)
        log.error("estimate failed", request_id=estimate.job.request_id, exc_info=error)
        self._finish(estimate, failure_of(error))

    def _finish(self, estimate: _Estimate, answer: Estimated | Failed) -> None:
        self._end(lambda each: each is estimate, answer)

    def _end(
        self, which: Callable[[_Estimate], bool], answer: Estimated | Failed
    ) -> tuple[str, ...]:
        with self._lock:
            ended = [each for each in self._alive if which(each)]
            self._alive = [each for each in self._alive if each not in ended]
        for each in ended:
            each.end(answer)
        return tuple(each.job.request_id for each in ended)

    def _in_use(self) -> set[str]:
        with self._lock:
            return {estimator_key(each.job.estimator) for each in self._alive}
