"""Output stage: decoding, encoding and delivery of images, and failure of requests."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch

from common.limits import MAX_SEED
from runners.device import Device
from runners.device_faults import DeviceFaults, is_out_of_memory
from runners.diffusion.sample import Sample
from runners.diffusion.vae import Pixels, decode_latents
from runners.engine.cost_model import CostModel
from runners.engine.image_encoding import encode_picture, png_input_chunks
from runners.engine.request_queue import RequestQueue
from runners.engine.request_state import RequestState
from runners.engine.telemetry import EngineTelemetry
from runners.errors import NonFiniteError, to_failure

NUM_SEEDS = MAX_SEED + 1


class OutputStage:
    """Output stage that decodes on the device thread and encodes on worker threads.

    Encoding overlaps with the next step. A decode that overflows in float16 is retried in float32.
    A decode that runs out of memory is retried after `release_memory`.

    Args:
        device: device of the engine.
        queue: queue of the engine.
        cost: cost model that receives decode durations.
        journal: recorder of logs, metrics and spans.
        clock: the engine's clock, in seconds.
        release_memory: function that frees caches on the device.
        faults: examiner of the device's errors.
        threads: number of encoding threads.
    """

    def __init__(
        self,
        device: Device,
        queue: RequestQueue,
        cost: CostModel,
        journal: EngineTelemetry,
        clock: Callable[[], float],
        release_memory: Callable[[], None],
        faults: DeviceFaults,
        threads: int,
    ) -> None:
        self._device = device
        self._faults = faults
        self._queue = queue
        self._cost = cost
        self._telemetry = journal
        self._clock = clock
        self._release_memory = release_memory
        self._encoders = ThreadPoolExecutor(threads, "encode")

    def finish(self, task: RequestState, sample: Sample) -> None:
        """Decode a finished sample and queue its encoding; the last image ends the task."""
        if task.finished:
            return
        job = task.job
        index = task.samples.index(sample)
        started = self._clock()
        try:
            pixels = self._decode(task, sample)
        except Exception as error:
            self.fail(task, self._faults.examine(error))
            return
        seconds = self._clock() - started
        self._cost.observe_decode(job.model, job.decoder, job.height * job.width, seconds)
        task.timings.decode += seconds
        self._telemetry.on_decoded(task, seconds)
        parameters = {**job.parameters, "seed": (job.seed + index) % NUM_SEEDS}
        embedded = parameters if job.embed_parameters else None

        def encode() -> bytes:
            inputs = png_input_chunks(job)
            return encode_picture(pixels, job.output_format, job.quality, embedded, inputs)

        if all(other.done for other in task.samples):
            self._queue.finish(task)
        self._encoders.submit(self._deliver, task, index, pixels, encode)

    def fail(self, task: RequestState, error: Exception) -> None:
        """End a task with the API error of an exception."""
        failure = to_failure(error)
        self._telemetry.on_failed(task, failure, error)
        with self._queue.lock:
            task.fail(failure.error, failure.message, failure.retry_after)
            self._queue.prune()

    def close(self) -> None:
        """Deliver all decoded images, then stop the worker threads."""
        self._encoders.shutdown()

    def _decode(self, task: RequestState, sample: Sample) -> Pixels:
        decode = partial(decode_latents, sample.latents, sample.variant, task.job.decoder)
        can_widen, can_release = self._device.dtype == torch.float16, True
        while True:
            try:
                return decode()
            except NonFiniteError:
                if not can_widen:
                    raise
                is_full = False
            except Exception as error:
                is_full = is_out_of_memory(error)
                if not (is_full and can_release):
                    raise
            # The memory of the failed attempt is free only after the `except` block.
            if is_full:
                can_release = False
                self._release_memory()
            else:
                can_widen = False
                self._telemetry.on_overflow(task)
                decode = partial(decode, in_float32=True)

    def _deliver(
        self, task: RequestState, index: int, pixels: Pixels, encode: Callable[[], bytes]
    ) -> None:
        started = self._clock()
        try:
            image = encode()
        except Exception as error:
            self.fail(task, error)
            return
        seconds = self._clock() - started
        self._telemetry.on_encoded(task, seconds, pixels)
        with self._queue.lock:
            task.timings.save += seconds
            task.deliver(index, image, self._telemetry.on_finished)
            self._queue.prune()
