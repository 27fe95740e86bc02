"""Output stage: decoding, encoding and delivery of images, and failure of requests."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from msgspec.structs import replace

from common.protocol import Step
from runners.device import Device
from runners.device_faults import DeviceFaults, is_out_of_memory
from runners.device_timer import DeviceTimer
from runners.diffusion.conditioning import image_seed
from runners.diffusion.fp16_accumulation import is_enabled
from runners.diffusion.sample import Sample
from runners.diffusion.vae import Pixels, PixelTransfer, start_decode
from runners.engine.cost_model import CostModel
from runners.engine.image_encoding import encode_picture, encode_preview, png_input_chunks
from runners.engine.request_queue import RequestQueue
from runners.engine.request_state import RequestState
from runners.engine.telemetry import EngineTelemetry
from runners.errors import NonFiniteError, to_failure


class OutputStage:
    """Output stage that decodes on the device thread and encodes on worker threads.

    The worker threads wait for the pixels and encode them while the device runs the next steps. A
    decode that overflows in float16 is retried in float32. An image that overflows all the same is
    generated again if sums in float16 can be the cause.
    A decode that runs out of memory is retried after `release_memory`.

    Args:
        device: device of the engine.
        queue: queue of the engine.
        cost: cost model that receives decode durations.
        journal: recorder of logs, metrics and spans.
        clock: the engine's clock, in seconds.
        release_memory: function that frees caches on the device.
        faults: examiner of the device's errors.
        timer: timer of the device.
        run_on_device: function that runs another on the device thread between two steps.
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
        timer: DeviceTimer,
        run_on_device: Callable[[Callable[[], None]], object],
        threads: int,
    ) -> None:
        self._device = device
        self._faults = faults
        self._timer = timer
        self._run_on_device = run_on_device
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
        if self._start(task, sample) and all(other.done for other in task.samples):
            self._queue.finish(task)

    def send_preview(self, task: RequestState, event: Step, transfer: PixelTransfer) -> None:
        """Send the event of a step with a preview, once its pixels have arrived."""
        task.preview = self._encoders.submit(self._deliver_preview, task, event, transfer)

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

    def _start(self, task: RequestState, sample: Sample, in_float32: bool = False) -> bool:
        """Start a decode and the delivery of its image; return False if the task failed."""
        span = self._timer.start()
        try:
            transfer, in_float32 = self._decode(task, sample, in_float32)
        except NonFiniteError as error:
            self._repeat_or_fail(task, sample, error)
            return False
        except Exception as error:
            self.fail(task, self._faults.examine(error))
            return False
        self._timer.stop(span, partial(self._on_decoded, task))
        self._encoders.submit(self._deliver, task, sample, transfer, in_float32)
        return True

    def _decode(
        self, task: RequestState, sample: Sample, in_float32: bool
    ) -> tuple[PixelTransfer, bool]:
        """Start a decode; return the transfer and whether it is in float32."""
        decode = partial(start_decode, sample.latents, sample.variant, task.job.decoder)
        can_release = True
        while True:
            try:
                transfer = decode(in_float32=True) if in_float32 else decode()
                if transfer.is_complete:
                    transfer.wait()
                return transfer, in_float32
            except NonFiniteError:
                if in_float32 or not self._can_widen:
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
                in_float32 = True
                self._telemetry.on_overflow(task)

    @property
    def _can_widen(self) -> bool:
        return self._device.dtype == torch.float16

    def _on_decoded(self, task: RequestState, seconds: float) -> None:
        job = task.job
        self._cost.observe_decode(job.model, job.decoder, job.height * job.width, seconds)
        task.timings.decode += seconds
        self._telemetry.on_decoded(task, seconds)

    def _deliver(
        self, task: RequestState, sample: Sample, transfer: PixelTransfer, in_float32: bool
    ) -> None:
        """Encode and deliver an image; on an encoding thread."""
        if task.preview is not None:
            task.preview.result()
        try:
            pixels = transfer.wait()
            # All spans of the image have ended, because its pixels have arrived.
            self._timer.settle()
            started = self._clock()
            image = self._encode(task, sample, pixels)
        except NonFiniteError as error:
            if in_float32 or not self._can_widen:
                # Only between steps does the switch of sums stand as it was chosen.
                failure = error
                self._run_on_device(lambda: self._repeat_or_fail(task, sample, failure))
                return
            self._telemetry.on_overflow(task)
            self._run_on_device(lambda: self._decode_again(task, sample))
            return
        except Exception as error:
            self.fail(task, self._faults.examine(error))
            return
        seconds = self._clock() - started
        self._telemetry.on_encoded(task, seconds, pixels)
        with self._queue.lock:
            task.timings.save += seconds
            task.deliver(task.samples.index(sample), image, self._telemetry.on_finished)
            self._queue.prune()

    def _repeat_or_fail(self, task: RequestState, sample: Sample, error: NonFiniteError) -> None:
        """Restart a sample whose image is not finite if that can help; on the device thread."""
        if task.finished:
            return
        if sample.exact_sums or not is_enabled():
            self.fail(task, error)
            return
        self._telemetry.on_repeat(task)
        sample.restart()
        self._queue.resume(task)

    def _decode_again(self, task: RequestState, sample: Sample) -> None:
        if not task.finished:
            self._start(task, sample, in_float32=True)

    def _encode(self, task: RequestState, sample: Sample, pixels: Pixels) -> bytes:
        job = task.job
        parameters = {**job.parameters, "seed": image_seed(job, task.samples.index(sample))}
        embedded = parameters if job.embed_parameters else None
        inputs = png_input_chunks(job)
        return encode_picture(pixels, job.output_format, job.quality, embedded, inputs)

    def _deliver_preview(self, task: RequestState, event: Step, transfer: PixelTransfer) -> None:
        """Send the event of a step with its preview; on an encoding thread."""
        preview = b""
        try:
            preview = encode_preview(transfer.wait())
        except NonFiniteError:
            # The full decoder may still succeed.
            pass
        except Exception as error:
            self.fail(task, self._faults.examine(error))
            return
        with self._queue.lock:
            task.emit(replace(event, preview=preview))
