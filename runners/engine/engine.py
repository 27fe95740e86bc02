"""Engine loop that owns the device: expire, admit, batch, step, finish.

The unit of work is one denoising step of one batch. Requests join and leave between steps, so one
loop implements cancellation, deadlines, fairness and previews.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING

import structlog
import torch

from common.process_memory import IDLE_TRIM_SECONDS, trim_heap
from common.protocol import CancelCommand, GenerateJob
from runners.device import Device, LaunchThrottle
from runners.device_faults import DeviceFaults, is_out_of_memory
from runners.device_timer import DeviceTimer
from runners.diffusion.batch import BatchCache
from runners.diffusion.denoise import predict_noise
from runners.diffusion.preview import start_preview
from runners.diffusion.sample import Sample
from runners.diffusion.vae import PixelTransfer
from runners.engine.admission import Admission
from runners.engine.batch_scheduler import effective_arrival, next_batch
from runners.engine.cost_model import CostModel
from runners.engine.output_stage import OutputStage
from runners.engine.request_queue import RequestQueue
from runners.engine.request_state import EventSink, RequestState
from runners.engine.telemetry import EngineTelemetry
from runners.weights.entry_keys import used_keys

if TYPE_CHECKING:
    # The engine also runs with other loaders than the model store's.
    from runners.weights.background_loader import BackgroundLoader

log = structlog.get_logger(__name__)

# Requests that wait for a load may have deadlines, which are checked at this interval.
_WAITING_CHECK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Limits of the engine.

    `max_samples` bounds the samples in flight; at 1024x1024 one holds about 12 MB.
    `preview_interval` is the minimum time in seconds between two previews of a request.
    """

    max_queue: int = 64
    max_queue_seconds: float = 60.0
    max_samples: int = 16
    preview_interval: float = 0.2
    encoder_threads: int = 2


class Engine:
    """Generation engine of one device; it emits results as events, from several threads.

    All methods are thread-safe except `tick` and `release_memory`, which run on the device thread:
    the thread that `start` creates, or a test's.

    Args:
        loader: loader of the weights.
        device: device of the weights.
        config: limits; the defaults if None.
        clock: monotonic clock of deadlines, in seconds.
        faults: examiner of the device's errors; a new one if None.
    """

    def __init__(
        self,
        loader: BackgroundLoader,
        device: Device,
        config: EngineConfig | None = None,
        clock: Callable[[], float] = time.monotonic,
        faults: DeviceFaults | None = None,
    ) -> None:
        self.cost = CostModel()
        self.faults = faults or DeviceFaults(device)
        self._config = config or EngineConfig()
        self._loader = loader
        self._device = device
        self._clock = clock
        self._queue = RequestQueue(
            self._config.max_queue, self._config.max_queue_seconds, self.cost.task_seconds
        )
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._batches = BatchCache(device)
        self._throttle = LaunchThrottle(device)
        self._telemetry = EngineTelemetry()
        self.timer = DeviceTimer(device, clock)
        self._finisher = OutputStage(
            device,
            self._queue,
            self.cost,
            self._telemetry,
            clock,
            self.release_memory,
            self.faults,
            self.timer,
            self.run_on_device_thread,
            self._config.encoder_threads,
        )
        self._admission = Admission(
            loader,
            device,
            self._queue,
            self.cost,
            self._telemetry,
            self.timer,
            self.faults,
            self._finisher.fail,
            self.release_memory,
            clock,
            self._config.max_samples,
        )
        self._closed = False
        self._thread: threading.Thread | None = None

    def submit(self, job: GenerateJob, emit: EventSink) -> None:
        """Queue a job, or subscribe to the unfinished request with the same id."""
        self._queue.add(job, emit, self._clock())

    def cancel(self, order: CancelCommand) -> tuple[str, ...]:
        """End matching requests before the next step, and return their request ids."""
        return self._queue.cancel(order)

    def has_request(self, job: GenerateJob) -> bool:
        """Return whether the job's owner has an unfinished request with its id."""
        return self._queue.has_request(job)

    def supersede(self, session: str, arrived: float) -> None:
        """End a session's requests that are older than its request on another engine."""
        self._queue.supersede_session(session, arrived)

    def load(self) -> tuple[int, int, float]:
        """Return the waiting requests, the running requests and the backlog in seconds."""
        return (*self._queue.counts(), self._queue.seconds_ahead())

    def retry_after(self) -> float | None:
        """Return the seconds after which to retry, or None while the queue accepts requests."""
        return self._queue.retry_after()

    def wake(self) -> None:
        """Make a waiting loop look at its requests again, because weights have been loaded."""
        self._queue.notify()

    def weights_in_use(self) -> set[str]:
        """Return what the model cache must not evict: names and keys of its entries."""
        return self._queue.weights_in_use() | self._admission.keys

    def weights_wanted_next(self) -> set[str]:
        """Return the keys of the weights that the oldest waiting request needs; empty if none."""
        waiting = self._queue.waiting()
        return used_keys(waiting[0].job) if waiting else set()

    def run_on_device_thread(self, function: Callable[[], None]) -> Future[None]:
        """Run a function on the device thread between two ticks."""
        future: Future[None] = Future()

        def run() -> None:
            try:
                function()
            except Exception as error:
                future.set_exception(self.faults.examine(error))
            else:
                future.set_result(None)

        self._calls.put(run)
        self._queue.notify()
        return future

    def release_memory(self) -> None:
        """Free caches that can be rebuilt; for the device thread."""
        self._batches.clear()
        self._loader.release_memory()
        self._device.release_cache()

    def start(self) -> None:
        """Start the loop in a new thread."""
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop after the current tick, deliver decoded images and fail all other requests."""
        self._closed = True
        self._queue.notify()
        if self._thread is not None:
            self._thread.join()
        self._finisher.close()
        self._queue.fail_where(lambda _: True, "runner_lost", "the runner is stopping")

    def tick(self) -> bool:
        """Run one iteration of the loop; return False if there was nothing to do."""
        has_calls = not self._calls.empty()
        while not self._calls.empty():
            self._calls.get()()
        self.timer.settle()
        self._expire()
        self._admission.admit()
        pending = self._queue.pending()
        self._batches.evict_finished(pending)
        arrivals = {
            sample: effective_arrival(task.arrived, task.timings.denoise)
            for sample, task in pending.items()
        }
        batch = next_batch(arrivals, self.cost.max_batch_rows)
        if batch:
            self._step({sample: pending[sample] for sample in batch})
        return bool(batch) or has_calls

    def _run(self) -> None:
        self._device.activate()
        trimmed = False
        while not self._closed:
            try:
                busy = self.tick()
            except Exception as error:
                self.faults.examine(error)
                log.exception("tick failed")
                self._queue.fail_where(lambda task: task.started, "internal", "internal error")
                continue
            if busy:
                continue
            if self._queue.waiting():
                self._queue.wait(_WAITING_CHECK_SECONDS)
            elif not self._queue.wait(None if trimmed else IDLE_TRIM_SECONDS):
                trim_heap()
                trimmed = True
            else:
                trimmed = False

    def _expire(self) -> None:
        now = self._clock()

        def misses_deadline(task: RequestState) -> bool:
            deadline = task.job.deadline
            return deadline is not None and now + self.cost.task_seconds(task) > deadline

        self._queue.fail_where(
            misses_deadline, "deadline_exceeded", "the image cannot be finished before the deadline"
        )

    def _step(self, batch: dict[Sample, RequestState], is_retry: bool = False) -> None:
        """Run one step of a batch, a mapping from samples to their tasks."""
        samples = list(batch)
        is_cached = samples[0].reuses_features
        # A sample's rows change where its guidance begins or ends.
        rows = sum(sample.batch_rows for sample in samples)
        failure = None
        try:
            self._activate_loras(samples[0])
            span = self.timer.start()
            predictions = predict_noise(samples, self._device, self._batches)
        except Exception as error:
            failure = self.faults.examine(error)
        if failure is not None:
            # Here the failed attempt's tensors are free, which a traceback would hold.
            self._split_and_retry(batch, failure, is_retry)
            return
        previews: dict[RequestState, PixelTransfer] = {}
        for (sample, task), prediction in zip(batch.items(), predictions, strict=True):
            try:
                if task.preview_due(self._clock(), self._config.preview_interval):
                    transfer = self._start_preview(sample, prediction)
                    if transfer is not None:
                        previews[task] = transfer
                sample.advance(prediction)
            except Exception as error:
                self._finisher.fail(task, self.faults.examine(error))
        self.timer.stop(span, partial(self._on_step, batch, 0 if is_cached else rows))
        self._throttle.tick()
        self.faults.on_step()
        self.timer.settle()
        for task in dict.fromkeys(batch.values()):
            self._report_progress(task, previews.get(task))
        for sample, task in batch.items():
            if sample.done:
                self._finisher.finish(task, sample)

    def _start_preview(self, sample: Sample, prediction: torch.Tensor) -> PixelTransfer | None:
        """Start a preview; without the memory for it, the image goes on without one."""
        try:
            return start_preview(sample, prediction)
        except Exception as error:
            failure = self.faults.examine(error)
            if not is_out_of_memory(failure):
                raise
        # Outside the handler, whose traceback holds the tensors of the failed attempt.
        self.release_memory()
        return None

    def _activate_loras(self, sample: Sample) -> None:
        """Merge the sample's LoRAs unless they are active, and measure what that costs."""
        span = self.timer.start()
        if sample.variant.loras.prepare(sample.job.loras):
            self.timer.stop(span, partial(self.cost.observe_merge, sample.job.model))

    def _on_step(self, batch: dict[Sample, RequestState], rows: int, seconds: float) -> None:
        """Record the duration of a step.

        Args:
            batch: the samples of the step, mapped to their tasks.
            rows: rows of the step; 0 if it reused deep features, whose cost is not learned.
            seconds: the duration.
        """
        job = next(iter(batch)).job
        if rows:
            self.cost.observe_step(job.model, rows * job.height * job.width, seconds)
        self._telemetry.on_step(batch, seconds)
        for task in dict.fromkeys(batch.values()):
            task.timings.denoise += seconds

    def _report_progress(self, task: RequestState, preview: PixelTransfer | None) -> None:
        """Send the event of a step; one with a preview is sent by an encoding thread."""
        if task.preview is not None:
            # Events keep their order. The preview before was encoded during this step.
            task.preview.result()
            task.preview = None
        if preview is not None:
            self._finisher.send_preview(task, task.progress(), preview)
            return
        with self._queue.lock:
            task.emit(task.progress())

    def _split_and_retry(
        self, batch: dict[Sample, RequestState], error: Exception, is_retry: bool
    ) -> None:
        """Halve a failed batch until it fits in memory or a single request fails.

        No sample has advanced yet, so a retry does not change results. A single sample that ran out
        of memory is retried once, because the caches that this frees can suffice.
        """
        self.release_memory()
        pairs = list(batch.items())
        if len(pairs) == 1 and (is_retry or not is_out_of_memory(error)):
            self._finisher.fail(pairs[0][1], error)
            return
        self._telemetry.on_split(len(pairs), error)
        if len(pairs) == 1:
            self._step(batch, is_retry=True)
            return
        half = len(pairs) // 2
        self._step(dict(pairs[:half]))
        self._step(dict(pairs[half:]))
