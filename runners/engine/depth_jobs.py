"""Queue of depth estimation jobs, which wait for their estimator and then for the device."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future

import numpy as np
import structlog

from common.protocol import CancelCommand, DepthResult, EstimateJob, JobFailed
from common.tracing import RequestSpans
from runners import metrics
from runners.device_faults import is_out_of_memory
from runners.engine.engine import Engine
from runners.engine.request_queue import SUPERSEDED
from runners.errors import NonFiniteError, to_failure
from runners.networks.depth_estimators import Estimator
from runners.weights.background_loader import BackgroundLoader
from runners.weights.entry_keys import estimator_key

log = structlog.get_logger(__name__)

OnResult = Callable[[DepthResult | JobFailed], None]


class _Estimate:
    """A job and its callback, which receives the first outcome only."""

    def __init__(self, job: EstimateJob, answer: OnResult) -> None:
        self.job = job
        self.over = False
        self._answer = answer

    def end(self, answer: DepthResult | JobFailed) -> None:
        """Pass the outcome to the callback unless the job has already ended."""
        if not self.over:
            self.over = True
            self._answer(answer)


class DepthJobQueue:
    """Depth jobs of one device. Thread-safe.

    Weights load in the background while the engine generates images. Each estimate runs on the
    device thread between two steps, one photograph at a time. The queue also rejects jobs while the
    engine rejects requests.

    Args:
        loader: loader of the estimators.
        engine: the engine of the device.
        max_waiting: number of unfinished jobs from which new ones are rejected.
    """

    def __init__(self, loader: BackgroundLoader, engine: Engine, max_waiting: int) -> None:
        self._loader = loader
        self._engine = engine
        self._max_waiting = max_waiting
        self._lock = threading.Lock()
        self._unfinished: list[_Estimate] = []

    def submit(self, job: EstimateJob, answer: OnResult) -> None:
        """Start a job, or reject it as `overloaded`; `answer` is called once, from any thread."""
        estimate = _Estimate(job, answer)
        full = self._engine.retry_after()
        with self._lock:
            waiting = len(self._unfinished)
            accepted = full is None and waiting < self._max_waiting
            if accepted:
                self._unfinished.append(estimate)
        if not accepted:
            message = f"{waiting + self._engine.load()[0]} requests are waiting"
            estimate.end(JobFailed("overloaded", message, full or 1.0))
            return
        self._load(estimate)

    def supersede(self, session: str, arrived: float) -> None:
        """End a session's jobs that arrived before `arrived`, in seconds of the monotonic clock."""
        self._end(
            lambda each: each.job.session == session and each.job.arrived < arrived,
            JobFailed("superseded", SUPERSEDED),
        )

    def cancel(self, order: CancelCommand) -> tuple[str, ...]:
        """End the jobs that match the command, and return their request ids."""

        def matches(estimate: _Estimate) -> bool:
            if order.subscriber not in {None, estimate.job.subscriber}:
                return False
            return order.matches(estimate.job)

        return self._end(matches, JobFailed("cancelled", "the request was cancelled"))

    def waiting(self) -> int:
        """Return the number of unfinished jobs."""
        with self._lock:
            return len(self._unfinished)

    def close(self) -> None:
        """End all jobs after the engine has stopped."""
        self._end(lambda _: True, JobFailed("runner_lost", "the runner is stopping"))

    def _load(self, estimate: _Estimate) -> None:
        def on_loaded(future: Future[None]) -> None:
            try:
                future.result()
            except (Exception, CancelledError) as error:
                self._fail(estimate, error)
            else:
                self._engine.run_on_device_thread(lambda: self._run(estimate))

        self._loader.load_estimator(estimate.job.estimator).add_done_callback(on_loaded)

    def _run(self, estimate: _Estimate) -> None:
        """Estimate a job's depth on the device thread."""
        if estimate.over:
            return
        job = estimate.job
        estimator = self._loader.model_cache.touch_estimator(job.estimator)
        if estimator is None:
            # The estimator was evicted before the job started.
            self._load(estimate)
            return
        span = self._engine.timer.start()
        try:
            depth = self._estimate_depth(estimator, job)
        except Exception as error:
            self._fail(estimate, error)
            return
        self._engine.timer.stop(span, lambda seconds: self._on_estimated(estimate, depth, seconds))

    def _on_estimated(self, estimate: _Estimate, depth: bytes, seconds: float) -> None:
        job = estimate.job
        metrics.ESTIMATE_SECONDS.labels(job.estimator).observe(seconds)
        RequestSpans(job.traceparent, job.request_id).add("estimate", seconds)
        log.info(
            "estimated",
            request_id=job.request_id,
            depth_estimator=job.estimator,
            seconds=round(seconds, 4),
        )
        self._finish(estimate, DepthResult(depth, seconds))

    def _estimate_depth(self, estimator: Estimator, job: EstimateJob) -> bytes:
        shape = (job.height, job.width, 3)
        image = np.frombuffer(job.image, np.uint8).reshape(shape)
        try:
            return estimator.estimate(image).tobytes()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        metrics.MEMORY_RETRIES.inc()
        self._engine.release_memory()
        return estimator.estimate(image).tobytes()

    def _fail(self, estimate: _Estimate, error: BaseException) -> None:
        if isinstance(error, CancelledError):
            self._finish(estimate, JobFailed("runner_lost", "the runner is stopping"))
            return
        if isinstance(error, NonFiniteError):
            metrics.NOT_FINITE_PICTURES.inc()
        assert isinstance(error, Exception)
        self._engine.faults.examine(error)
        log.error("estimate failed", request_id=estimate.job.request_id, exc_info=error)
        self._finish(estimate, to_failure(error))

    def _finish(self, estimate: _Estimate, answer: DepthResult | JobFailed) -> None:
        self._end(lambda each: each is estimate, answer)

    def _end(
        self, which: Callable[[_Estimate], bool], answer: DepthResult | JobFailed
    ) -> tuple[str, ...]:
        with self._lock:
            ended = [each for each in self._unfinished if which(each)]
            self._unfinished = [each for each in self._unfinished if each not in ended]
        for each in ended:
            each.end(answer)
        return tuple(each.job.request_id for each in ended)

    def weights_in_use(self) -> set[str]:
        """Return the keys of the estimators that unfinished jobs use."""
        with self._lock:
            return {estimator_key(each.job.estimator) for each in self._unfinished}
