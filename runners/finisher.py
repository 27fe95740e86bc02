"""From final latents to delivered pictures, and how a request ends without them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch

from runners.cost import CostModel
from runners.decode import NotFiniteError, Pixels, decode_latents
from runners.device import Device
from runners.encode import encode_inputs, encode_picture
from runners.failure import failure_of
from runners.journal import Journal
from runners.queue import TaskQueue
from runners.sample import Sample
from runners.task import Task

SEEDS = 2**63


class Finisher:
    """Decodes on the device's thread, and encodes on others, while the next step runs.

    A decoder that left the range of float16 is tried again in float32, one for which memory does
    not suffice after `release_memory` has let go of what can be made anew.
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
            pixels = self._decode(task, sample)
        except Exception as error:
            self.fail(task, error)
            return
        seconds = self._clock() - started
        self._cost.observe_decode(job.model, job.decoder, job.height * job.width, seconds)
        task.timings.decode += seconds
        self._journal.decoded(task, seconds)
        parameters = {**job.parameters, "seed": (job.seed + index) % SEEDS}
        written = parameters if job.embed_parameters else None

        def encode() -> bytes:
            inputs = encode_inputs(job)
            return encode_picture(pixels, job.output_format, job.quality, written, inputs)

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

    def _decode(self, task: Task, sample: Sample) -> Pixels:
        decode = partial(decode_latents, sample.latents, sample.variant, task.job.decoder)
        try:
            return decode()
        except torch.OutOfMemoryError:
            self._release_memory()
        except NotFiniteError:
            if self._device.dtype != torch.float16:
                raise
            self._journal.overflowed(task)
            return decode(in_float32=True)
        return decode()

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
