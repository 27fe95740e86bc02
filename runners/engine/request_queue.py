"""Request queue of the engine: all requests from arrival to their last event."""

from __future__ import annotations

import threading
from collections.abc import Callable

from common.protocol import CancelCommand, GenerateJob, Queued, Started
from runners.diffusion.sample import Sample
from runners.engine.request_state import EventSink, RequestState
from runners.weights.entry_keys import used_keys

SUPERSEDED = "superseded by a newer request of the same session"
CONFLICT = (
    "request_id: another request with this id is unfinished and differs from this one; "
    "use a new id, or send the request unchanged"
)
_MAX_SESSIONS = 1000


class RequestQueue:
    """Waiting, running and finishing tasks under one lock. Thread-safe.

    A task waits until it is admitted, runs while it has remaining steps, and finishes while its
    images are encoded.

    Args:
        max_waiting: number of waiting tasks from which new ones are rejected.
        max_seconds: backlog in seconds beyond which new tasks are rejected.
        seconds_of: function that estimates the remaining seconds of a task.
    """

    def __init__(
        self, max_waiting: int, max_seconds: float, seconds_of: Callable[[RequestState], float]
    ) -> None:
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)
        self._signal = False
        self._max_waiting = max_waiting
        self._max_seconds = max_seconds
        self._seconds_of = seconds_of
        self._waiting: list[RequestState] = []
        self._running: list[RequestState] = []
        self._finishing: list[RequestState] = []
        self._latest: dict[str, float] = {}

    def add(self, job: GenerateJob, emit: EventSink, now: float) -> None:
        """Queue a job, subscribe to the equal unfinished task of its id, or reject it.

        Rejected are a job beyond the queue's limits, and one whose id another job has that is not
        equal to it.

        A job with a session supersedes the session's earlier jobs. A later job with a smaller depth
        map may be queued first; it then supersedes this one.

        Args:
            job: the request.
            emit: receiver of its events.
            now: seconds on the engine's clock.
        """
        with self.lock:
            for task in self.unfinished():
                if not _share_id(task.job, job):
                    continue
                if task.job.fingerprint == job.fingerprint:
                    task.subscribe(job.subscriber, emit)
                else:
                    RequestState(job, now, emit).fail("conflict", CONFLICT)
                return
            task = RequestState(job, now, emit)
            if job.session is not None and self._supersede(job.session, job.arrived):
                task.fail("superseded", SUPERSEDED)
                return
            wait = self.retry_after(self._seconds_of(task))
            if wait is not None:
                task.fail("overloaded", f"{len(self._waiting)} requests are waiting", wait)
                return
            task.emit(Queued(len(self._waiting) + len(self._running)))
            self._waiting.append(task)
            self.notify()

    def retry_after(self, more: float = 0.0) -> float | None:
        """Return the backlog in seconds if work of `more` seconds is rejected now, else None.

        An empty queue accepts work of any duration. The result is at least 1 second.
        """
        with self.lock:
            backlog = self.seconds_ahead()
            too_many = len(self._waiting) >= self._max_waiting
            too_long = backlog > 0 and backlog + more > self._max_seconds
            return max(1.0, backlog) if too_many or too_long else None

    def has_request(self, job: GenerateJob) -> bool:
        """Return whether the job's owner has an unfinished request with its id."""
        return any(_share_id(task.job, job) for task in self.unfinished())

    def supersede_session(self, session: str, arrived: float) -> None:
        """End a session's requests that are older than its request on another engine."""
        with self.lock:
            self._supersede(session, arrived)

    def _supersede(self, session: str, arrived: float) -> bool:
        """End a session's older requests; return True if a newer request has already arrived."""
        latest = self._latest.pop(session, arrived)
        self._latest[session] = max(latest, arrived)
        if len(self._latest) > _MAX_SESSIONS:
            self._latest.pop(next(iter(self._latest)))
        if latest > arrived:
            return True
        self.fail_where(lambda task: task.job.session == session, "superseded", SUPERSEDED)
        return False

    def cancel(self, order: CancelCommand) -> tuple[str, ...]:
        """End matching tasks or unsubscribe the caller; return the request ids of ended tasks."""

        def matches(task: RequestState) -> bool:
            if not order.matches(task.job):
                return False
            return order.subscriber is None or task.unsubscribe(order.subscriber)

        return self.fail_where(matches, "cancelled", "the request was cancelled")

    def fail_where(
        self, which: Callable[[RequestState], bool], error: str, message: str
    ) -> tuple[str, ...]:
        """Fail every unfinished task that satisfies a predicate, and return their request ids.

        Args:
            which: the predicate.
            error: error code of the failure.
            message: error message of the failure.
        """
        with self.lock:
            ended = [task for task in self.unfinished() if which(task)]
            for task in ended:
                task.fail(error, message)
            if ended:
                self.prune()
                self.notify()
            return tuple(task.job.request_id for task in ended)

    def unfinished(self) -> list[RequestState]:
        """Return the tasks that have not ended."""
        with self.lock:
            tasks = (*self._waiting, *self._running, *self._finishing)
            return [task for task in tasks if not task.finished]

    def waiting(self) -> list[RequestState]:
        """Return the tasks that are not yet admitted, oldest first."""
        with self.lock:
            return list(self._waiting)

    def pending(self) -> dict[Sample, RequestState]:
        """Return the samples with remaining steps, oldest first, mapped to their tasks."""
        with self.lock:
            return {s: task for task in self._running for s in task.samples if not s.done}

    def weights_in_use(self) -> set[str]:
        """Return the keys of all weights that running tasks' steps need."""
        tasks = set(self.pending().values())
        return set().union(*(used_keys(task.job) for task in tasks))

    def counts(self) -> tuple[int, int]:
        """Return the number of waiting tasks and of running or finishing tasks."""
        with self.lock:
            self.prune()
            return len(self._waiting), len(self._running) + len(self._finishing)

    def seconds_ahead(self) -> float:
        """Return the estimated backlog in seconds."""
        return sum(self._seconds_of(task) for task in self.unfinished())

    def admit(self, task: RequestState, samples: list[Sample]) -> None:
        """Move a waiting task to the running tasks unless it has ended."""
        with self.lock:
            if task.finished:
                return
            task.samples = samples
            self._waiting = [other for other in self._waiting if other is not task]
            self._running.append(task)
            task.emit(Started())

    def finish(self, task: RequestState) -> None:
        """Move a task without remaining steps to the finishing tasks."""
        with self.lock:
            if task in self._running:
                self._running.remove(task)
                self._finishing.append(task)

    def resume(self, task: RequestState) -> None:
        """Move a finishing task back to the running tasks, because a sample has steps again."""
        with self.lock:
            if task in self._finishing:
                self._finishing.remove(task)
                self._running.append(task)
            self.notify()

    def prune(self) -> None:
        """Remove tasks that have ended."""
        with self.lock:
            self._waiting = [task for task in self._waiting if not task.finished]
            self._running = [task for task in self._running if not task.finished]
            self._finishing = [task for task in self._finishing if not task.finished]

    def notify(self) -> None:
        """Wake the thread that waits in `wait`."""
        with self.lock:
            self._signal = True
            self._changed.notify_all()

    def wait(self, timeout: float | None) -> bool:
        """Wait until `notify` has been called since the last wait, or for `timeout` seconds.

        Returns:
            Whether `notify` was called.
        """
        with self.lock:
            changed = self._changed.wait_for(lambda: self._signal, timeout)
            self._signal = False
            return changed


def _share_id(first: GenerateJob, second: GenerateJob) -> bool:
    """Return whether one caller gave two requests the same id; ids of the service join nothing."""
    is_chosen = bool(first.fingerprint and second.fingerprint)
    return is_chosen and (first.owner, first.request_id) == (second.owner, second.request_id)
