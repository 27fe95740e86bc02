"""Router that sends each request to the device with the earliest start."""

from __future__ import annotations

from collections.abc import Sequence

from common.protocol import CancelCommand, EstimateJob, GenerateJob
from runners.engine.depth_jobs import OnResult
from runners.engine.request_state import EventSink
from runners.server.device_worker import DeviceWorker


class EngineRouter:
    """Router over the engines of all devices. Thread-safe.

    A request goes to the device with the shortest estimated start delay. Missing weights add to the
    delay, so requests of a variant share a device until its backlog exceeds a load. A request with
    the id of an unfinished one goes to the same device. A session's newer request ends its older
    requests on every device.
    """

    def __init__(self, workers: Sequence[DeviceWorker]) -> None:
        self.workers = workers

    def submit(self, job: GenerateJob, emit: EventSink) -> None:
        """Queue a job, or subscribe to the equal unfinished request of its id."""
        for worker in self.workers:
            if worker.engine.has_request(job):
                worker.engine.submit(job, emit)
                return
        chosen = min(self.workers, key=lambda worker: worker.estimated_start_delay(job))
        if job.session is not None:
            for worker in self.workers:
                worker.estimates.supersede(job.session, job.arrived)
                if worker is not chosen:
                    worker.engine.supersede(job.session, job.arrived)
        chosen.engine.submit(job, emit)

    def estimate(self, job: EstimateJob, answer: OnResult) -> None:
        """Start a depth job on one device; see `DepthJobQueue.submit`."""
        chosen = min(self.workers, key=lambda worker: worker.seconds_until_estimate(job.estimator))
        if job.session is not None:
            for worker in self.workers:
                worker.estimates.supersede(job.session, job.arrived)
        chosen.estimates.submit(job, answer)

    def cancel(self, order: CancelCommand) -> tuple[str, ...]:
        """End matching requests before the next step, and return their request ids."""
        holders = [each for worker in self.workers for each in (worker.engine, worker.estimates)]
        ended = [name for holder in holders for name in holder.cancel(order)]
        return tuple(dict.fromkeys(ended))

    def snapshot(self) -> tuple[int, int, float]:
        """Return the waiting requests, the running requests and the longest backlog in seconds.

        Depth jobs count as waiting.
        """
        waiting, running, seconds = zip(
            *(worker.engine.load() for worker in self.workers), strict=True
        )
        photographs = sum(worker.estimates.waiting() for worker in self.workers)
        return sum(waiting) + photographs, sum(running), max(seconds)

    def retry_after(self) -> float | None:
        """Return the seconds after which to retry, or None while any device accepts requests."""
        waits = [worker.engine.retry_after() for worker in self.workers]
        known = [wait for wait in waits if wait is not None]
        return min(known) if len(known) == len(waits) else None

    def close(self) -> None:
        """Stop every engine after its current step."""
        for worker in self.workers:
            worker.close()
