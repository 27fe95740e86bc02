"""Admission of waiting requests: weights, conditioning and samples."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from common.protocol import GenerateJob
from runners.device import Device
from runners.device_faults import DeviceFaults, is_out_of_memory
from runners.device_timer import DeviceTimer
from runners.diffusion.conditioning import ConditioningBuilder
from runners.diffusion.sample import Sample
from runners.engine.cost_model import CostModel
from runners.engine.request_queue import RequestQueue
from runners.engine.request_state import RequestState
from runners.engine.telemetry import EngineTelemetry
from runners.networks.sdxl import ControlNet, SdxlModel
from runners.weights.entry_keys import used_keys

if TYPE_CHECKING:
    # The engine also runs with other loaders than the model store's.
    from runners.weights.background_loader import BackgroundLoader


class Admission:
    """Admission of the oldest waiting requests whose weights are resident; on the device thread.

    Args:
        loader: loader of the weights.
        device: device of the weights.
        queue: queue of the engine.
        cost: cost model that receives the durations of preparations.
        telemetry: recorder of logs, metrics and spans.
        timer: timer of the device.
        faults: examiner of the device's errors.
        fail: function that ends a request with the API error of an exception.
        release_memory: function that frees caches on the device.
        clock: the engine's clock, in seconds.
        max_samples: bound of the samples in flight.
    """

    def __init__(
        self,
        loader: BackgroundLoader,
        device: Device,
        queue: RequestQueue,
        cost: CostModel,
        telemetry: EngineTelemetry,
        timer: DeviceTimer,
        faults: DeviceFaults,
        fail: Callable[[RequestState, Exception], None],
        release_memory: Callable[[], None],
        clock: Callable[[], float],
        max_samples: int,
    ) -> None:
        self._loader = loader
        self._conditioner = ConditioningBuilder(device)
        self._queue = queue
        self._cost = cost
        self._telemetry = telemetry
        self._timer = timer
        self._faults = faults
        self._fail = fail
        self._release_memory = release_memory
        self._clock = clock
        self._max_samples = max_samples
        self.keys: set[str] = set()
        """Keys of the weights of the request that is being admitted."""

    def admit(self) -> None:
        """Admit requests in order of arrival, and start the loads of those that must wait."""
        in_flight = len(self._queue.pending())
        for task in self._queue.waiting():
            if task.finished:
                # Cancelled or superseded while earlier requests were prepared.
                continue
            if in_flight and in_flight + task.job.num_images > self._max_samples:
                break
            if self._admit(task):
                in_flight += task.job.num_images
            elif self._loader.is_waiting_for_eviction:
                # Its load needs an eviction, which requires that earlier requests end first.
                break
        self.keys = set()

    def _admit(self, task: RequestState, is_retry: bool = False) -> bool:
        """Create the task's samples if its weights are resident; return False if it must wait."""
        job = task.job
        self.keys = used_keys(job)
        failure = None
        try:
            loras = [lora.name for lora in job.loras]
            networks = self._loader.get_or_start_load(job.model, job.controlnet, loras)
            if networks is None:
                return False
            started = self._clock()
            span = self._timer.start()
            samples = self._build_samples(job, *networks)
        except Exception as error:
            failure = self._faults.examine(error)
        if failure is not None:
            # Here the failed attempt's tensors are free, which a traceback would hold.
            return self._recover(task, failure, is_retry)
        if task.finished:
            return True
        task.timings.queue = started - task.arrived
        self._timer.stop(span, partial(self._on_prepared, task))
        self._telemetry.on_admitted(task, self._clock() - started)
        self._queue.admit(task, samples)
        return True

    def _build_samples(
        self, job: GenerateJob, variant: SdxlModel, controlnet: ControlNet
    ) -> list[Sample]:
        conditioning = self._conditioner.build(job, variant, controlnet)
        return [
            Sample(job, number, variant, controlnet, conditioning)
            for number in range(job.num_images)
        ]

    def _recover(self, task: RequestState, error: Exception, is_retry: bool) -> bool:
        """Admit a task after an error if freed memory allows it; return False otherwise."""
        if is_out_of_memory(error):
            self._release_memory()
            if self._queue.pending():
                # Running requests free memory when they end.
                return False
            if not is_retry:
                return self._admit(task, is_retry=True)
        self._fail(task, error)
        return False

    def _on_prepared(self, task: RequestState, seconds: float) -> None:
        job = task.job
        task.timings.encode = seconds
        self._cost.observe_encode(job.model, bool(job.image), job.height * job.width, seconds)
        self._telemetry.on_prepared(task, seconds)
