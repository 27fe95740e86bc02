"""Execution of a plan: open and closed loops, attempts and early stops."""

from __future__ import annotations

import asyncio
import itertools
import math
import time

import numpy as np

from experimance.load.http import Outcome, Sender
from experimance.load.outcomes import INTERRUPTED, UNSENT, classify
from experimance.load.recorder import Record, RequestLog
from experimance.load.request_factory import PlannedRequest, RequestFactory
from experimance.load.schedule import MAX_REQUESTS, Plan, generate_arrivals

_MAX_ATTEMPTS = 5
_STREAM = 4
"""Separates the random numbers of think times from those of arrivals and request contents."""
_RECHECK_SECONDS = 0.05


class Clock:
    """Monotonic clock in seconds from its creation."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def now(self) -> float:
        """Return the seconds since creation."""
        return time.perf_counter() - self._start


class StopEvent:
    """Event that ends all sleeps; created within the event loop."""

    def __init__(self) -> None:
        self._future = asyncio.get_running_loop().create_future()

    def set(self) -> None:
        """End current and future sleeps."""
        if not self._future.done():
            self._future.set_result(None)

    def is_set(self) -> bool:
        """Return whether the event is set."""
        return self._future.done()

    async def sleep(self, seconds: float) -> bool:
        """Sleep, and return False if the event was set meanwhile."""
        if seconds <= 0:
            await asyncio.sleep(0)
        elif not self.is_set():
            await asyncio.wait((self._future,), timeout=seconds)
        return not self.is_set()


class Executor:
    """Sends the requests of a plan and logs their outcomes; created within the event loop.

    Args:
        plan: Load and limits.
        factory: Source of requests.
        sender: HTTP sender.
        log: Receives every outcome.
        clock: Clock of the run.
        seed: Seed of arrivals and think times.

    Attributes:
        in_flight: Number of requests that wait for a response.
        sent: Number of requests that were sent at least once.
        sending_ended: Second after which nothing was due, the end of the measurement.
        stopped: Whether the run was stopped early.
    """

    def __init__(
        self, plan: Plan, factory: RequestFactory, sender: Sender, log: RequestLog, clock: Clock,
        seed: int,
    ) -> None:  # fmt: skip
        self._plan = plan
        self._factory = factory
        self._sender = sender
        self._log = log
        self._clock = clock
        self._seed = seed
        self._numbers = itertools.count()
        self._measured = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop = StopEvent()
        self.in_flight = 0
        self.sent = 0
        self.sending_ended = math.nan
        self.stopped = False

    async def run(self) -> None:
        """Execute the plan and wait until every request has ended."""
        async with asyncio.TaskGroup() as group:
            if self._plan.open_loop:
                await self._run_open_loop(group)
            else:
                await self._run_closed_loop()
            self._end_sending()
            # Refused requests are not sent again after the end.
            self._stop.set()

    def stop(self) -> None:
        """Stop sending; requests in flight may end."""
        self.stopped = True
        self._end_sending()
        self._stop.set()

    def abort(self) -> None:
        """Stop sending and cancel the requests in flight."""
        self.stop()
        for task in self._tasks:
            task.cancel()

    def _end_sending(self) -> None:
        if math.isnan(self.sending_ended):
            self.sending_ended = min(self._clock.now(), self._plan.profile.seconds)

    async def _run_open_loop(self, group: asyncio.TaskGroup) -> None:
        plan = self._plan
        for at in generate_arrivals(plan.profile, plan.process, self._seed):
            # Created before it is due, so that creation does not delay the send.
            planned = self._factory.create(next(self._numbers))
            if not await self._stop.sleep(at - self._clock.now()) or not self._may_send(at):
                return
            task = group.create_task(self._execute(planned, at))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        await self._stop.sleep(plan.profile.seconds - self._clock.now())

    async def _run_closed_loop(self) -> None:
        async with asyncio.TaskGroup() as clients:
            for index in range(math.ceil(self._plan.profile.peak)):
                self._tasks.add(clients.create_task(self._run_client(index)))

    async def _run_client(self, index: int) -> None:
        """Send one request after the other while the level exceeds the client's index."""
        profile, (low, high) = self._plan.profile, self._plan.think
        rng = np.random.default_rng((_STREAM, self._seed, index))
        while (now := self._clock.now()) < profile.seconds and not self._stop.is_set():
            if profile.level(now) < index + 1:
                await self._stop.sleep(_RECHECK_SECONDS)
                continue
            if not self._may_send(now):
                return
            await self._execute(self._factory.create(next(self._numbers)), None)
            think = float(rng.uniform(low, high))
            await self._stop.sleep(min(think, profile.seconds - self._clock.now()))

    def _may_send(self, at: float) -> bool:
        """Count one more request due at second `at`; return False beyond the limits."""
        if self._log.in_flight + len(self._log) >= MAX_REQUESTS:
            self._end_sending()
            return False
        if at >= self._plan.warmup:
            if self._measured == self._plan.requests:
                self._end_sending()
                return False
            self._measured += 1
        return True

    async def _execute(self, planned: PlannedRequest, due: float | None) -> None:
        """Send a request and log its outcome; without `due` the request is due now."""
        sent = self._clock.now()
        intended = sent if due is None else due
        self._log.open(planned.number)
        attempt = 1
        try:
            if self.in_flight >= self._plan.max_in_flight:
                self._close(planned, intended, math.nan, Outcome(UNSENT), 0)
                return
            outcome = await self._send(planned, attempt)
            while self._may_retry(outcome, attempt) and await self._stop.sleep(
                outcome.retry_after or 0.0
            ):
                attempt += 1
                outcome = await self._send(planned, attempt)
        except asyncio.CancelledError:
            self._close(planned, intended, sent, Outcome(INTERRUPTED), attempt)
            raise
        self._close(planned, intended, sent, outcome, attempt)

    async def _send(self, planned: PlannedRequest, attempt: int) -> Outcome:
        self.in_flight += 1
        self.sent += attempt == 1
        try:
            return await self._sender.send(planned, attempt)
        finally:
            self.in_flight -= 1

    def _may_retry(self, outcome: Outcome, attempt: int) -> bool:
        wanted = self._plan.respect_retry_after and attempt < _MAX_ATTEMPTS
        return wanted and outcome.status == 429 and outcome.retry_after is not None

    def _close(
        self, planned: PlannedRequest, intended: float, sent: float, outcome: Outcome, attempts: int
    ) -> None:
        group = classify(
            outcome.code, outcome.status,
            cancels=planned.cancel_after is not None, has_session=planned.has_session,
        )  # fmt: skip
        record = Record(
            number=planned.number, scenario=planned.scenario, intended=intended, sent=sent,
            ended=self._clock.now(), ending=group, code=outcome.code, status=outcome.status,
            attempts=attempts, first=outcome.first, timings=outcome.timings,
        )  # fmt: skip
        self._log.close(record, outcome.message)
