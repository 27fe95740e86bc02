"""A run: requests are sent when they are due, and each comes to exactly one end."""

from __future__ import annotations

import asyncio
import itertools
import math

import numpy as np

from experimance.load.answer import Answer
from experimance.load.arrivals import arrivals
from experimance.load.clock import Clock
from experimance.load.draft import Draft, Drafter
from experimance.load.halt import Halt
from experimance.load.ledger import Ledger, Record
from experimance.load.outcomes import INTERRUPTED, UNSENT, ending_of
from experimance.load.plan import MOST_REQUESTS, Plan
from experimance.load.sender import Sender

_ATTEMPTS = 5
_STREAM = 4
_RECHECK_SECONDS = 0.05


class Run:
    """Sends what a plan asks for and writes it into a ledger. Made inside the event loop."""

    def __init__(
        self, plan: Plan, drafter: Drafter, sender: Sender, ledger: Ledger, clock: Clock, seed: int
    ) -> None:
        self._plan = plan
        self._drafter = drafter
        self._sender = sender
        self._ledger = ledger
        self._clock = clock
        self._seed = seed
        self._numbers = itertools.count()
        self._measured = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._sending = Halt()
        self.in_flight = 0
        self.sent = 0
        self.sending_ended = math.nan
        """When nothing more was due: the end of what is measured."""
        self.stopped = False

    async def go(self) -> None:
        """Until every request has ended."""
        async with asyncio.TaskGroup() as group:
            if self._plan.open_loop:
                await self._open_loop(group)
            else:
                await self._closed_loop()
            self._end_sending()
            # Refused requests do not wait for another turn after the end.
            self._sending.call()

    def stop(self) -> None:
        """Send nothing more; what is under way may end."""
        self.stopped = True
        self._end_sending()
        self._sending.call()

    def abort(self) -> None:
        """End what is under way, too."""
        self.stop()
        for task in self._tasks:
            task.cancel()

    def _end_sending(self) -> None:
        if math.isnan(self.sending_ended):
            self.sending_ended = min(self._clock.now(), self._plan.shape.seconds)

    async def _open_loop(self, group: asyncio.TaskGroup) -> None:
        plan = self._plan
        for at in arrivals(plan.shape, plan.process, self._seed):
            # Drawn before it is due, so that drawing makes nothing late.
            draft = self._drafter.draft(next(self._numbers))
            if not await self._sending.sleep(at - self._clock.now()) or not self._counts(at):
                return
            task = group.create_task(self._one(draft, at))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        await self._sending.sleep(plan.shape.seconds - self._clock.now())

    async def _closed_loop(self) -> None:
        async with asyncio.TaskGroup() as clients:
            for index in range(math.ceil(self._plan.shape.peak)):
                self._tasks.add(clients.create_task(self._client(index)))

    async def _client(self, index: int) -> None:
        """One caller of a closed loop: is there while the level is above its index."""
        shape, (low, high) = self._plan.shape, self._plan.think
        rng = np.random.default_rng((_STREAM, self._seed, index))
        while (now := self._clock.now()) < shape.seconds and not self._sending.called:
            if shape.level(now) < index + 1:
                await self._sending.sleep(_RECHECK_SECONDS)
                continue
            if not self._counts(now):
                return
            await self._one(self._drafter.draft(next(self._numbers)), None)
            think = float(rng.uniform(low, high))
            await self._sending.sleep(min(think, shape.seconds - self._clock.now()))

    def _counts(self, at: float) -> bool:
        """Whether one more may be sent that is due now."""
        if self._ledger.unended + len(self._ledger) >= MOST_REQUESTS:
            self._end_sending()
            return False
        if at >= self._plan.warmup:
            if self._measured == self._plan.requests:
                self._end_sending()
                return False
            self._measured += 1
        return True

    async def _one(self, draft: Draft, due: float | None) -> None:
        """Send a request and write down how it ended; without `due` it is due now."""
        sent = self._clock.now()
        intended = sent if due is None else due
        self._ledger.open(draft.number)
        attempt = 1
        try:
            if self.in_flight >= self._plan.max_in_flight:
                self._close(draft, intended, math.nan, Answer(UNSENT), 0)
                return
            answer = await self._sent(draft, attempt)
            while self._may_try_again(answer, attempt) and await self._sending.sleep(
                answer.retry_after or 0.0
            ):
                attempt += 1
                answer = await self._sent(draft, attempt)
        except asyncio.CancelledError:
            self._close(draft, intended, sent, Answer(INTERRUPTED), attempt)
            raise
        self._close(draft, intended, sent, answer, attempt)

    async def _sent(self, draft: Draft, attempt: int) -> Answer:
        self.in_flight += 1
        self.sent += attempt == 1
        try:
            return await self._sender.send(draft, attempt)
        finally:
            self.in_flight -= 1

    def _may_try_again(self, answer: Answer, attempt: int) -> bool:
        wanted = self._plan.respect_retry_after and attempt < _ATTEMPTS
        return wanted and answer.status == 429 and answer.retry_after is not None

    def _close(
        self, draft: Draft, intended: float, sent: float, answer: Answer, attempts: int
    ) -> None:
        ending = ending_of(
            answer.code, answer.status,
            cancels=draft.cancel_after is not None, has_session=draft.has_session,
        )  # fmt: skip
        record = Record(
            number=draft.number, scenario=draft.scenario, intended=intended, sent=sent,
            ended=self._clock.now(), ending=ending, code=answer.code, status=answer.status,
            attempts=attempts, first=answer.first, timings=answer.timings,
        )  # fmt: skip
        self._ledger.close(record, answer.message)
