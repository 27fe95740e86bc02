"""Simulated fleet of GPU workers behind one queue: waits, rejections and costs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Literal

import simpy

Running = Generator[simpy.Event, Any, None]


@dataclass(slots=True, eq=False)
class Worker:
    """One GPU; a `stopped` worker keeps its disk and starts sooner than a new one."""

    state: Literal["starting", "idle", "busy", "stopped", "gone"] = "starting"
    leaving: bool = False
    was_stopped: bool = False


@dataclass(slots=True)
class Tally:
    """Totals so far: waits in seconds, and times in worker-seconds."""

    waits: list[float] = field(default_factory=list)
    refused: int = 0
    paid: float = 0.0
    stored: float = 0.0
    busy: float = 0.0
    in_system: float = 0.0
    stays: float = 0.0


class Fleet:
    """Workers that process one request at a time, first come, first served.

    A router with exact knowledge of every worker would behave like this single queue.

    Args:
        env: the simulation's clock, in seconds.
        service: draws the seconds of an image.
        new_seconds: seconds from ordering a new worker until it serves.
        stopped_seconds: seconds from starting a stopped worker until it serves.
        keep_stopped: workers kept stopped instead of being released.
        patience: seconds after which a waiting request is refused.
    """

    def __init__(
        self,
        env: simpy.Environment,
        service: Callable[[], float],
        *,
        new_seconds: float = 0.0,
        stopped_seconds: float = 0.0,
        keep_stopped: int = 0,
        patience: float = float("inf"),
    ) -> None:
        self.tally = Tally()
        self.arrived = 0
        self._env = env
        self._service = service
        self._new_seconds = new_seconds
        self._stopped_seconds = stopped_seconds
        self._keep_stopped = keep_stopped
        self._patience = patience
        self._workers: list[Worker] = []
        self._stopped = [Worker("stopped") for _ in range(keep_stopped)]
        self._idle: list[Worker] = []
        self._queue: deque[float] = deque()
        self._painting = 0
        self._accounted = env.now

    @property
    def waiting(self) -> int:
        """Requests that wait and have not given up."""
        self._give_up()
        return len(self._queue)

    @property
    def painting(self) -> int:
        """Requests in progress on a worker."""
        return self._painting

    @property
    def active(self) -> int:
        """Workers that serve or start, without those that stop after their current request."""
        return sum(not worker.leaving for worker in self._workers)

    def begin(self, count: int) -> None:
        """Add `count` ready workers at once, as the day's initial state."""
        for _ in range(count):
            worker = Worker("idle")
            self._workers.append(worker)
            self._idle.append(worker)

    def arrive(self) -> None:
        """Add a request now."""
        self._account()
        self.arrived += 1
        self._queue.append(self._env.now)
        self._dispatch()

    def scale_to(self, count: int) -> None:
        """Start workers, stopped ones first, or stop some, idle before busy, to have `count`."""
        self._account()
        missing = count - self.active
        for worker in self._workers:
            if missing > 0 and worker.leaving:
                worker.leaving = False
                missing -= 1
        for _ in range(missing):
            self._start()
        if missing < 0:
            # Among workers in the same state, the newest stops first.
            order = {"starting": 0, "idle": 1, "busy": 2}
            staying = [worker for worker in reversed(self._workers) if not worker.leaving]
            for worker in sorted(staying, key=lambda worker: order[worker.state])[:-missing]:
                worker.leaving = True
                if worker.state != "busy":
                    self._stop(worker)

    def settle(self) -> Tally:
        """Return the totals up to now."""
        self._account()
        self._give_up()
        return self.tally

    def _start(self) -> None:
        if self._stopped:
            worker, seconds = self._stopped.pop(), self._stopped_seconds
            worker.state, worker.was_stopped = "starting", True
        else:
            worker, seconds = Worker(), self._new_seconds
        self._workers.append(worker)
        self._env.process(self._boot(worker, seconds))

    def _boot(self, worker: Worker, seconds: float) -> Running:
        yield self._env.timeout(seconds)
        if worker.state == "starting":
            self._account()
            worker.state = "idle"
            self._idle.append(worker)
            self._dispatch()

    def _stop(self, worker: Worker) -> None:
        self._workers.remove(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        has_disk = worker.state != "starting" or worker.was_stopped
        worker.state = "gone"
        if has_disk and len(self._stopped) < self._keep_stopped:
            # A new object, because the process of an abandoned start still holds the old one.
            self._stopped.append(Worker("stopped"))

    def _dispatch(self) -> None:
        self._give_up()
        while self._queue and self._idle:
            arrived = self._queue.popleft()
            worker = self._idle.pop()
            worker.state = "busy"
            self._painting += 1
            self.tally.waits.append(self._env.now - arrived)
            self._env.process(self._paint(worker, arrived))

    def _paint(self, worker: Worker, arrived: float) -> Running:
        yield self._env.timeout(self._service())
        self._account()
        self._painting -= 1
        self.tally.stays += self._env.now - arrived
        worker.state = "idle"
        self._idle.append(worker)
        if worker.leaving:
            self._stop(worker)
        self._dispatch()

    def _give_up(self) -> None:
        while self._queue and self._env.now - self._queue[0] > self._patience:
            self._queue.popleft()
            self.tally.refused += 1

    def _account(self) -> None:
        """Add the worker-seconds since the last change."""
        passed = self._env.now - self._accounted
        self._accounted = self._env.now
        self.tally.paid += passed * len(self._workers)
        self.tally.stored += passed * len(self._stopped)
        self.tally.busy += passed * self._painting
        self.tally.in_system += passed * (len(self._queue) + self._painting)
