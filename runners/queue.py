"""Every request that the engine knows, from arrival to its last event."""

from __future__ import annotations

import threading
from collections.abc import Callable

from runners.messages import CancelOrder, PaintJob, Queued, Started
from runners.sample import Sample
from runners.task import Emit, Task

SUPERSEDED = "a newer request of the same session took its place"
_KEPT_SESSIONS = 1000


class TaskQueue:
    """Waiting, running and finishing tasks, under one lock; all methods are thread-safe.

    A task waits until it is admitted, runs while it has steps to do, and finishes while its
    pictures are encoded. `seconds_of` estimates what a task still costs. None is taken while
    `max_waiting` wait, or while what is known takes more than `max_seconds`.
    """

    def __init__(
        self, max_waiting: int, max_seconds: float, seconds_of: Callable[[Task], float]
    ) -> None:
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)
        self._signal = False
        self._max_waiting = max_waiting
        self._max_seconds = max_seconds
        self._seconds_of = seconds_of
        self._waiting: list[Task] = []
        self._running: list[Task] = []
        self._finishing: list[Task] = []
        self._latest: dict[str, float] = {}

    def add(self, job: PaintJob, emit: Emit, now: float) -> None:
        """Queue a job, join the one of the same id that still runs, or refuse it when full.

        A job with a session supersedes those of the session that arrived before it, and is
        superseded by one that arrived after it but was sooner here (its depth map was smaller).
        """
        with self.lock:
            for task in self.alive():
                if _is_same(task.job, job):
                    task.join(job.subscriber, emit)
                    return
            task = Task(job, now, emit)
            if job.session is not None and self._supersede(job.session, job.arrived):
                task.fail("superseded", SUPERSEDED)
                return
            wait = self.full(self._seconds_of(task))
            if wait is not None:
                task.fail("overloaded", f"{len(self._waiting)} requests are waiting", wait)
                return
            task.emit(Queued(len(self._waiting) + len(self._running)))
            self._waiting.append(task)
            self.notify()

    def full(self, more: float = 0.0) -> float | None:
        """Seconds until all that is known is done, if work of `more` seconds is not taken now;
        else None. Who comes back then need not wait.

        However long it takes, it is taken where nothing is ahead of it.
        """
        with self.lock:
            ahead = self.seconds_ahead()
            many = len(self._waiting) >= self._max_waiting
            long = ahead > 0 and ahead + more > self._max_seconds
            return max(1.0, ahead) if many or long else None

    def knows(self, job: PaintJob) -> bool:
        """Whether a request of its owner's has its id and has not ended."""
        return any(_is_same(task.job, job) for task in self.alive())

    def supersede(self, session: str, arrived: float) -> None:
        """End what a session's request that is painted elsewhere replaces."""
        with self.lock:
            self._supersede(session, arrived)

    def _supersede(self, session: str, arrived: float) -> bool:
        """End what a session's request replaces; true when it is itself replaced already."""
        latest = self._latest.pop(session, arrived)
        self._latest[session] = max(latest, arrived)
        if len(self._latest) > _KEPT_SESSIONS:
            self._latest.pop(next(iter(self._latest)))
        if latest > arrived:
            return True
        self.end(lambda task: task.job.session == session, "superseded", SUPERSEDED)
        return False

    def cancel(self, order: CancelOrder) -> tuple[str, ...]:
        """End the tasks that the order names; returns their request ids."""

        def named(task: Task) -> bool:
            if not order.names(task.job):
                return False
            return order.subscriber is None or task.leave(order.subscriber)

        return self.end(named, "cancelled", "the request was cancelled")

    def end(self, which: Callable[[Task], bool], error: str, message: str) -> tuple[str, ...]:
        """Fail every living task that `which` is true of; returns their request ids."""
        with self.lock:
            ended = [task for task in self.alive() if which(task)]
            for task in ended:
                task.fail(error, message)
            if ended:
                self.prune()
                self.notify()
            return tuple(task.job.request_id for task in ended)

    def alive(self) -> list[Task]:
        """Tasks that have not ended."""
        with self.lock:
            tasks = (*self._waiting, *self._running, *self._finishing)
            return [task for task in tasks if not task.over]

    def waiting(self) -> list[Task]:
        """Tasks not yet admitted, oldest first."""
        with self.lock:
            return list(self._waiting)

    def pending(self) -> dict[Sample, Task]:
        """Samples with steps to do, oldest first, each with its task."""
        with self.lock:
            return {s: task for task in self._running for s in task.samples if not s.done}

    def counts(self) -> tuple[int, int]:
        """How many tasks wait, and how many are under way."""
        with self.lock:
            self.prune()
            return len(self._waiting), len(self._running) + len(self._finishing)

    def seconds_ahead(self) -> float:
        """Estimated seconds until all that is known now is done."""
        return sum(self._seconds_of(task) for task in self.alive())

    def admit(self, task: Task, samples: list[Sample]) -> None:
        """Move a waiting task to the running ones."""
        with self.lock:
            task.samples = samples
            self._waiting = [other for other in self._waiting if other is not task]
            self._running.append(task)
            task.emit(Started())

    def finish(self, task: Task) -> None:
        """Move a task whose steps are all done to the finishing ones."""
        with self.lock:
            if task in self._running:
                self._running.remove(task)
                self._finishing.append(task)

    def prune(self) -> None:
        """Forget tasks that have ended."""
        with self.lock:
            self._waiting = [task for task in self._waiting if not task.over]
            self._running = [task for task in self._running if not task.over]
            self._finishing = [task for task in self._finishing if not task.over]

    def notify(self) -> None:
        """Wake the loop."""
        with self.lock:
            self._signal = True
            self._changed.notify_all()

    def wait(self, timeout: float | None) -> bool:
        """Sleep until something has changed since the last wait, or for `timeout` seconds; whether
        something has."""
        with self.lock:
            changed = self._changed.wait_for(lambda: self._signal, timeout)
            self._signal = False
            return changed


def _is_same(first: PaintJob, second: PaintJob) -> bool:
    return (first.owner, first.request_id) == (second.owner, second.request_id)
