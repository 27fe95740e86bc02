"""From final latents to delivered pictures, and how a request ends without them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch

from runners.cost import CostModel
from runners.decode import NotFiniteError, Pixels, decode_latents
from runners.device import Device
from runners.encode import encode_picture
from runners.failure import failure_of
from runners.journal import Journal
from runners.queue import TaskQueue
from runners.sample import Sample
from runners.task import Task

SEEDS = 2**63


class Finisher:
    """Decodes on the device's thread, and encodes on others, while the next step runs.

    A picture whose numbers left the range of float16 is painted again in bfloat16, which has
    float32's range. A decode for which memory does not suffice is tried again once
    `release_memory` has let go of what can be made anew.
    """

    def __init__(
        self,
        device: Device,
        queue: TaskQueue,
        cost: CostModel,
        journal: Journal,
        clock: Callable[[], float],
        release_memory: Callable[[], None],
        threads: int,
    ) -> None:
        self._device = device
        self._queue = queue
        self._cost = cost
        self._journal = journal
        self._clock = clock
        self._release_memory = release_memory
        self._encoders = ThreadPoolExecutor(threads, "encode")

    def finish(self, task: Task, sample: Sample) -> None:
        """Turn a sample that is done into a picture; the last one ends the task."""
        if task.over:
            return
        job = task.job
        index = task.samples.index(sample)
        started = self._clock()
        try:
            pixels = self._decode(sample)
        except NotFiniteError as error:
            if sample.wide or self._device.dtype != torch.float16:
                self.fail(task, error)
                return
            self._journal.widened(task)
            with self._queue.lock:
                task.samples[index] = sample.again_wide(self._device)
            return
        except Exception as error:
            self.fail(task, error)
            return
        seconds = self._clock() - started
        self._cost.observe_decode(job.model, job.decoder, job.height * job.width, seconds)
        task.timings.decode += seconds
        self._journal.decoded(task, seconds)
        parameters = {**job.parameters, "seed": (job.seed + index) % SEEDS}
        written = parameters if job.embed_parameters else None
        encode = partial(encode_picture, pixels, job.output_format, job.quality, written)
        if all(other.done for other in task.samples):
            self._queue.finish(task)
        self._encoders.submit(self._deliver, task, index, pixels, encode)

    def fail(self, task: Task, error: Exception) -> None:
        """End a task because of an exception."""
        failure = failure_of(error)
        self._journal.failed(task, failure, error)
        with self._queue.lock:
            task.fail(failure.error, failure.message, failure.retry_after)
            self._queue.prune()

    def close(self) -> None:
        """Deliver what is decoded."""
        self._encoders.shutdown()

    def _decode(self, sample: Sample) -> Pixels:
        with self._device.precision(sample.wide):
            try:
                return decode_latents(sample.latents, sample.variant, sample.job.decoder)
            except torch.OutOfMemoryError:
                self._release_memory()
            return decode_latents(sample.latents, sample.variant, sample.job.decoder)

    def _deliver(self, task: Task, index: int, pixels: Pixels, encode: Callable[[], bytes]) -> None:
        started = self._clock()
        try:
            picture = encode()
        except Exception as error:
            self.fail(task, error)
            return
        seconds = self._clock() - started
        self._journal.saved(task, seconds, pixels)
        with self._queue.lock:
            task.timings.save += seconds
            if task.deliver(index, picture):
                self._journal.finished(task)
            self._queue.prune()
