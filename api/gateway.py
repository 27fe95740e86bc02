"""The public service's side of the border to the runner."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

import aiohttp
import structlog
from bentoml.exceptions import BentoMLException

from api.errors import ApiError, Conflict, Overloaded, Unavailable, from_failure
from api.metrics import RUNNER_LOST, RUNNER_RESTARTS
from runners.messages import (
    Cancelled,
    CancelOrder,
    Done,
    Estimated,
    EstimateJob,
    Event,
    Failed,
    LoadOrder,
    LoadOutcome,
    PaintJob,
    Queued,
    RunnerStatus,
    Started,
    Step,
    Unpacker,
    pack,
    unpack,
)

log = structlog.get_logger(__name__)

T = TypeVar("T")
HasLeft = Callable[[], Awaitable[bool]]
"""Whether a caller has hung up; asked from time to time."""

_STATUS_SECONDS = 0.05
_FULL_AGE_SECONDS = 0.1
_FULL_TRUSTED_SECONDS = 1.0
_DISCONNECT_POLL_SECONDS = 0.2
_RETRY_SECONDS = 5.0
_LOST = (aiohttp.ClientError, BentoMLException, OSError, EOFError)


class Runner(Protocol):
    """What the gateway needs of the runner; see runners.runner for what each does."""

    def paint(self, job: bytes) -> AsyncGenerator[bytes, None]:
        """PaintJob in, events out."""

    async def estimate(self, job: bytes) -> bytes:
        """EstimateJob in, Estimated or Failed out."""

    async def cancel(self, order: bytes) -> bytes:
        """CancelOrder in, Cancelled out."""

    async def load(self, order: bytes) -> bytes:
        """LoadOrder in, LoadOutcome out."""

    async def unload(self, order: bytes) -> bytes:
        """LoadOrder in, LoadOutcome out."""

    async def status(self) -> bytes:
        """RunnerStatus out."""


class Gateway:
    """Sends jobs and orders to the runner, and knows how it is without waiting for it."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._status = RunnerStatus("starting")
        self._told = float("-inf")
        self._began = 0.0
        self._asking: asyncio.Task[RunnerStatus] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def events(self, job: PaintJob) -> AsyncGenerator[Event, None]:
        """A job's events up to and with Done; the work ends when the caller stops listening.

        Raises:
            ApiError: the job failed, or the runner was lost.
        """
        heard: asyncio.Queue[Event | ApiError] = asyncio.Queue()
        self._start(self._listen(job, heard))
        ended = False
        try:
            while not ended:
                event = await heard.get()
                ended = isinstance(event, Done | ApiError)
                if isinstance(event, ApiError):
                    raise event
                yield event
        finally:
            if not ended:
                self._leave(job)

    async def paint(self, job: PaintJob, has_left: HasLeft) -> Done:
        """The finished pictures.

        Args:
            job: what to paint.
            has_left: whether its caller has.

        Raises:
            ApiError: the job failed, the runner was lost, or the caller has left.
        """
        work = asyncio.create_task(self._last(job))
        try:
            return await watched(work, has_left)
        finally:
            work.cancel()

    async def estimate(self, job: EstimateJob, has_left: HasLeft) -> bytes:
        """Depth of a photograph, near = bright: uint8 of the job's `height * width` bytes.

        Raises:
            ApiError: as for paint.
        """
        heard: asyncio.Future[Estimated | ApiError] = asyncio.get_running_loop().create_future()
        self._start(self._hear(job, heard))
        ended = False
        try:
            outcome = await watched(heard, has_left)
            ended = True
        finally:
            if not ended:
                self._leave(job)
        if isinstance(outcome, ApiError):
            raise outcome
        return outcome.depth

    async def cancel(self, order: CancelOrder) -> tuple[str, ...]:
        """End what the order names; returns the request ids."""
        answer = await _reaching(self._runner.cancel(pack(order)))
        return unpack(answer, Cancelled).request_ids

    async def load(self, order: LoadOrder) -> LoadOutcome:
        """Load weights; raises Unavailable when that failed."""
        outcome = unpack(await _reaching(self._runner.load(pack(order))), LoadOutcome)
        if outcome.error is not None:
            raise Unavailable(outcome.message, code=outcome.error, retry_after=_RETRY_SECONDS)
        return outcome

    async def unload(self, order: LoadOrder) -> LoadOutcome:
        """Forget weights."""
        return unpack(await _reaching(self._runner.unload(pack(order))), LoadOutcome)

    async def status(self, max_age: float = 0.0) -> RunnerStatus:
        """The runner's status, or its last known one if it does not answer within 50 ms.

        One that is less than `max_age` seconds old will do.
        """
        if time.monotonic() - self._told < max_age:
            return self._status
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._asking), _STATUS_SECONDS)
        return self._status

    async def refuse_if_full(self) -> None:
        """Spare a request's preparation what the runner would refuse; that has the last word.

        A runner that has not told for a second how it is may have finished everything since.

        Raises:
            Overloaded: the runner takes nothing more.
        """
        status = await self.status(max_age=_FULL_AGE_SECONDS)
        is_known = time.monotonic() - self._told < _FULL_TRUSTED_SECONDS
        if is_known and status.full is not None:
            message = f"{status.waiting} requests are waiting"
            raise Overloaded(message, retry_after=status.full)

    async def _ask(self) -> RunnerStatus:
        try:
            self._status = unpack(await self._runner.status(), RunnerStatus)
            if 0.0 < self._began < self._status.began:
                RUNNER_RESTARTS.inc()
            self._began = self._status.began
        except _LOST:
            self._status = RunnerStatus("starting")
        self._told = time.monotonic()
        return self._status

    async def _listen(self, job: PaintJob, heard: asyncio.Queue[Event | ApiError]) -> None:
        """Hear the runner out, in a task of its own, whatever becomes of the caller's.

        A connection to the runner is free for others once its stream has been read to the end;
        one whose reader is cancelled stays open for ever.
        """
        unpacker = Unpacker()
        ended = False
        try:
            async for chunk in self._runner.paint(pack(job)):
                for event in unpacker.feed(chunk):
                    ended = isinstance(event, Done | Failed)
                    if isinstance(event, Failed):
                        heard.put_nowait(from_failure(event))
                    elif isinstance(event, Queued | Started | Step | Done):
                        heard.put_nowait(event)
        except _LOST as error:
            log.error("runner lost", error=type(error).__name__)
        except Exception:
            log.exception("runner not understood")
        if not ended:
            heard.put_nowait(_lost())

    async def _hear(self, job: EstimateJob, heard: asyncio.Future[Estimated | ApiError]) -> None:
        """Await an estimate, whatever becomes of the caller's task; see _listen."""
        outcome: object = None
        try:
            (outcome,) = Unpacker().feed(await self._runner.estimate(pack(job)))
        except _LOST as error:
            log.error("runner lost", error=type(error).__name__)
        except Exception:
            log.exception("runner not understood")
        if heard.done():
            return
        if isinstance(outcome, Failed):
            heard.set_result(from_failure(outcome))
        else:
            heard.set_result(outcome if isinstance(outcome, Estimated) else _lost())

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something in the background; without a reference a task may vanish."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _last(self, job: PaintJob) -> Done:
        async with contextlib.aclosing(self.events(job)) as events:
            async for event in events:
                if isinstance(event, Done):
                    return event
        raise _lost()

    def _leave(self, job: PaintJob | EstimateJob) -> None:
        """Tell the runner, without waiting: the caller's own task is being cancelled."""
        order = CancelOrder.leaving(job)

        async def tell() -> None:
            with contextlib.suppress(ApiError):
                await self.cancel(order)

        self._start(tell())


async def watched(work: asyncio.Future[T], has_left: HasLeft) -> T:
    """The result of some work, unless its caller leaves before; Conflict then."""
    while not work.done():
        await asyncio.wait({work}, timeout=_DISCONNECT_POLL_SECONDS)
        if not work.done() and await has_left():
            raise Conflict("the caller has left", code="cancelled")
    return work.result()


async def _reaching(call: Awaitable[T]) -> T:
    try:
        return await call
    except _LOST as error:
        log.error("runner not reached", error=type(error).__name__)
        raise _lost() from error


def _lost() -> Unavailable:
    RUNNER_LOST.inc()
    return Unavailable(
        "the runner stopped; it is being started again",
        code="runner_lost",
        retry_after=_RETRY_SECONDS,
    )
