"""The loop that owns the device: drop, admit, group, step, finish.

The unit of work is one denoising step of one batch. Requests join and leave between steps, so
cancellation, deadlines, fairness and previews all follow from the same loop.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING

import structlog
import torch

from runners.batch import BatchCache
from runners.conditioning import Conditioner
from runners.cost import CostModel
from runners.decode import preview
from runners.denoise import predict_noise
from runners.device import Device, Pacer
from runners.encode import encode_preview
from runners.finisher import SEEDS, Finisher
from runners.heap import trim_heap
from runners.journal import Journal
from runners.messages import CancelOrder, PaintJob
from runners.picker import pick, place_in_line
from runners.queue import TaskQueue
from runners.sample import Sample
from runners.task import Emit, Task

if TYPE_CHECKING:
    # Weights may come from elsewhere than the model store.
    from runners.loader import Loader

log = structlog.get_logger(__name__)

# Waiting requests may have deadlines while their model loads.
_WAITING_CHECK_SECONDS = 0.1
_REST_SECONDS = 10.0
"""Without anything to do; then freed memory goes back to the system."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Bounds of the engine.

    `max_samples` in flight is a bound on state, small beside weights: at 1024x1024 a sample
    holds about 12 MB. `quantum` is how many seconds a request is worked on before it lets those
    pass that came meanwhile; `preview_interval` is the least number of seconds between two
    previews of a request.
    """

    max_queue: int = 64
    max_queue_seconds: float = 60.0
    max_samples: int = 16
    quantum: float = 2.0
    preview_interval: float = 0.2
    encoder_threads: int = 2


class Engine:
    """Paints jobs; results come back as events, from whatever thread made them.

    `submit`, `cancel`, `snapshot`, `full` and `call` may be used from any thread; `tick` from one
    only: the one that `start` makes, or a test's.
    """

    def __init__(
        self,
        loader: Loader,
        device: Device,
        config: EngineConfig | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cost = CostModel()
        self._config = config or EngineConfig()
        self._loader = loader
        self._device = device
        self._clock = clock
        self._queue = TaskQueue(
            self._config.max_queue, self._config.max_queue_seconds, self.cost.task_seconds
        )
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._conditioner = Conditioner(device)
        self._batches = BatchCache(device)
        self._pacer = Pacer(device)
        self._journal = Journal()
        self._finisher = Finisher(
            device,
            self._queue,
            self.cost,
            self._journal,
            clock,
            self.release_memory,
            self._config.encoder_threads,
        )
        self._closed = False
        self._thread: threading.Thread | None = None
        self._admitting: set[str] = set()
        loader.on_change = self._queue.notify
        loader.in_use = self._in_use

    def submit(self, job: PaintJob, emit: Emit) -> None:
        """Queue a job, or join the one of the same id that still runs."""
        self._queue.add(job, emit, self._clock())

    def cancel(self, order: CancelOrder) -> tuple[str, ...]:
        """End what the order names, before the next step; returns the request ids."""
        return self._queue.cancel(order)

    def knows(self, job: PaintJob) -> bool:
        """Whether a request of this id has not ended."""
        return self._queue.knows(job)

    def supersede(self, session: str, arrived: float) -> None:
        """End what a session's request replaces that another engine paints."""
        self._queue.supersede(session, arrived)

    def snapshot(self) -> tuple[int, int, float]:
        """Requests waiting, requests under way, and the seconds until all are done."""
        return (*self._queue.counts(), self._queue.seconds_ahead())

    def full(self) -> float | None:
        """Seconds after which to come back, if nothing more is taken now; else None."""
        return self._queue.full()

    def call(self, function: Callable[[], None]) -> Future[None]:
        """Run a function between two ticks, on the device's thread."""
        future: Future[None] = Future()

        def run() -> None:
            try:
                function()
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(None)

        self._calls.put(run)
        self._queue.notify()
        return future

    def release_memory(self) -> None:
        """Let go of what can be made anew; on the device's thread."""
        self._batches.clear()
        self._loader.release_memory()
        self._device.release_cache()

    def start(self) -> None:
        """Run the loop in a thread of its own."""
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the loop after the current tick, deliver what is decoded, end everything else."""
        self._closed = True
        self._queue.notify()
        if self._thread is not None:
            self._thread.join()
        self._finisher.close()
        self._queue.end(lambda _: True, "runner_lost", "the runner is stopping")

    def tick(self) -> bool:
        """One turn of the loop; False when there was nothing to do."""
        called = not self._calls.empty()
        while not self._calls.empty():
            self._calls.get()()
        self._drop_late()
        self._admit()
        pending = self._queue.pending()
        self._batches.retain(pending)
        quantum = self._config.quantum
        line = {
            sample: place_in_line(task.arrived, task.timings.denoise, quantum)
            for sample, task in pending.items()
        }
        picked = pick(line, self.cost.max_rows)
        if picked:
            self._step({sample: pending[sample] for sample in picked})
        return bool(picked) or called

    def _run(self) -> None:
        self._device.enter()
        rested = False
        while not self._closed:
            try:
                busy = self.tick()
            except Exception:
                log.exception("tick failed")
                self._queue.end(lambda task: task.started, "internal", "internal error")
                continue
            if busy:
                continue
            if self._queue.waiting():
                self._queue.wait(_WAITING_CHECK_SECONDS)
            elif not self._queue.wait(None if rested else _REST_SECONDS):
                trim_heap()
                rested = True
            else:
                rested = False

    def _drop_late(self) -> None:
        now = self._clock()

        def late(task: Task) -> bool:
            deadline = task.job.deadline
            return deadline is not None and now + self.cost.task_seconds(task) > deadline

        self._queue.end(late, "deadline_exceeded", "the picture cannot be ready in time")

    def _admit(self) -> None:
        in_flight = len(self._queue.pending())
        for task in self._queue.waiting():
            if in_flight and in_flight + task.job.num_images > self._config.max_samples:
                break
            if self._prepare(task):
                in_flight += task.job.num_images
            elif self._loader.crowded:
                # What it waits for leaves only when those before it have ended.
                break
        self._admitting = set()

    def _prepare(self, task: Task) -> bool:
        """Make the task's samples if its weights are resident; False when it must wait."""
        job = task.job
        self._admitting = {job.model, job.controlnet}
        try:
            loras = [lora.name for lora in job.loras]
            networks = self._loader.resident(job.model, job.controlnet, loras)
            if networks is None:
                return False
            started = self._clock()
            conditioning = self._conditioner.condition(job, *networks)
            samples = [
                Sample(job, (job.seed + i) % SEEDS, *networks, conditioning, self._device)
                for i in range(job.num_images)
            ]
        except torch.OutOfMemoryError as error:
            self.release_memory()
            if self._queue.pending():
                # There is more when the others are done.
                return False
            self._finisher.fail(task, error)
            return False
        except Exception as error:
            self._finisher.fail(task, error)
            return False
        task.timings.queue = started - task.arrived
        task.timings.encode = self._clock() - started
        pixels = job.height * job.width
        self.cost.observe_encode(job.model, bool(job.image), pixels, task.timings.encode)
        self._journal.admitted(task)
        self._queue.admit(task, samples)
        return True

    def _in_use(self) -> set[str]:
        """The variants and ControlNets whose weights must stay."""
        jobs = [task.job for task in self._queue.pending().values()]
        return {name for job in jobs for name in (job.model, job.controlnet)} | self._admitting

    def _step(self, batch: dict[Sample, Task]) -> None:
        """One step of a batch; each sample comes with the task that owns it."""
        started = self._clock()
        samples = list(batch)
        cached = samples[0].reuses_features
        try:
            predictions = predict_noise(samples, self._device, self._batches)
        except Exception as error:
            self._recover(batch, error)
            return
        previews: dict[Task, bytes] = {}
        for (sample, task), prediction in zip(batch.items(), predictions, strict=True):
            try:
                if task.preview_due(self._clock(), self._config.preview_interval):
                    pixels = preview(sample, prediction)
                    previews[task] = b"" if pixels is None else encode_preview(pixels)
                sample.advance(prediction)
            except Exception as error:
                self._finisher.fail(task, error)
        self._pacer.tick()
        seconds = self._clock() - started
        job = samples[0].job
        if not cached:
            rows = sum(sample.rows for sample in samples)
            self.cost.observe_step(job.model, rows * job.height * job.width, seconds)
        self._journal.stepped(batch, seconds)
        with self._queue.lock:
            for task in dict.fromkeys(batch.values()):
                task.timings.denoise += seconds
                task.progress(previews.get(task, b""))
        for sample, task in batch.items():
            if sample.done:
                self._finisher.finish(task, sample)

    def _recover(self, batch: dict[Sample, Task], error: Exception) -> None:
        """Halve a failed batch until it fits in memory, or the guilty request stands alone.

        Nothing has advanced yet, so trying again changes no result.
        """
        self.release_memory()
        pairs = list(batch.items())
        if len(pairs) == 1:
            self._finisher.fail(pairs[0][1], error)
            return
        self._journal.halved(len(pairs), error)
        half = len(pairs) // 2
        self._step(dict(pairs[:half]))
        self._step(dict(pairs[half:]))
