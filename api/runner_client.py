"""Client of the runner for the public service."""

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
from api.request_metrics import RUNNER_LOST, RUNNER_RESTARTS
from common.framing import Unpacker, pack, unpack
from common.protocol import (
    CancelCommand,
    Cancelled,
    DepthResult,
    EstimateJob,
    Event,
    GenerateJob,
    JobDone,
    JobFailed,
    LoadCommand,
    LoadResult,
    RunnerStatus,
)

log = structlog.get_logger(__name__)

T = TypeVar("T")
IsDisconnected = Callable[[], Awaitable[bool]]
"""Coroutine function that returns whether the client has disconnected; polled every 0.2 s."""

FULL_TRUSTED_SECONDS = 1.0
"""Age from which a status no longer rejects requests, because the backlog may have cleared."""

_STATUS_SECONDS = 0.05
_FULL_AGE_SECONDS = 0.1
_DISCONNECT_POLL_SECONDS = 0.2
_RETRY_SECONDS = 5.0
_LOST = (aiohttp.ClientError, BentoMLException, OSError, EOFError)


class Runner(Protocol):
    """Interface of the runner; runners.server.service implements it."""

    def paint(self, job: bytes) -> AsyncGenerator[bytes, None]:
        """Run a packed GenerateJob; yield its packed events."""

    async def estimate(self, job: bytes) -> bytes:
        """Run a packed EstimateJob; return a packed DepthResult or JobFailed."""

    async def cancel(self, order: bytes) -> bytes:
        """Execute a packed CancelCommand; return a packed Cancelled."""

    async def load(self, order: bytes) -> bytes:
        """Load the weights of a packed LoadCommand; return a packed LoadResult."""

    async def unload(self, order: bytes) -> bytes:
        """Unload the weights of a packed LoadCommand; return a packed LoadResult."""

    async def status(self) -> bytes:
        """Return a packed RunnerStatus."""


class RunnerClient:
    """Client that sends jobs and commands to the runner and caches its status."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._status = RunnerStatus("starting")
        self._status_at = float("-inf")
        self._runner_started_at = 0.0
        self._status_task: asyncio.Task[RunnerStatus] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def events(self, job: GenerateJob) -> AsyncGenerator[Event, None]:
        """Yield a job's events up to and including JobDone.

        Closing the generator early withdraws the caller from the job.

        Raises:
            ApiError: the job failed, or the runner was lost.
        """
        incoming: asyncio.Queue[Event | ApiError] = asyncio.Queue()
        self._start(self._read_events(job, incoming))
        ended = False
        try:
            while not ended:
                event = await incoming.get()
                ended = isinstance(event, JobDone | ApiError)
                if isinstance(event, ApiError):
                    raise event
                yield event
        finally:
            if not ended:
                self._unsubscribe(job)

    async def paint(self, job: GenerateJob, has_left: IsDisconnected) -> JobDone:
        """Return the finished images of a job.

        Args:
            job: the job to run.
            has_left: whether the client has disconnected.

        Raises:
            ApiError: the job failed, the runner was lost, or the client disconnected.
        """
        work = asyncio.create_task(self._final_event(job))
        try:
            return await until_disconnect(work, has_left)
        finally:
            work.cancel()

    async def estimate(self, job: EstimateJob, has_left: IsDisconnected) -> bytes:
        """Return the depth of a photograph: uint8, `height * width` bytes, near = bright.

        Args:
            job: the job to run.
            has_left: whether the client has disconnected.

        Raises:
            ApiError: the job failed, the runner was lost, or the client disconnected.
        """
        result: asyncio.Future[DepthResult | ApiError] = asyncio.get_running_loop().create_future()
        self._start(self._await_depth(job, result))
        ended = False
        try:
            outcome = await until_disconnect(result, has_left)
            ended = True
        finally:
            if not ended:
                self._unsubscribe(job)
        if isinstance(outcome, ApiError):
            raise outcome
        return outcome.depth

    async def cancel(self, order: CancelCommand) -> tuple[str, ...]:
        """Cancel the requests that the command matches; return their ids.

        Raises:
            Unavailable: the runner was lost.
        """
        answer = await _call(self._runner.cancel(pack(order)))
        return unpack(answer, Cancelled).request_ids

    async def load(self, order: LoadCommand) -> LoadResult:
        """Load weights and return the result.

        Raises:
            Unavailable: the weights failed to load, or the runner was lost.
        """
        outcome = unpack(await _call(self._runner.load(pack(order))), LoadResult)
        if outcome.error is not None:
            raise Unavailable(outcome.message, code=outcome.error, retry_after=_RETRY_SECONDS)
        return outcome

    async def unload(self, order: LoadCommand) -> LoadResult:
        """Unload weights and return the result.

        Raises:
            Unavailable: the runner was lost.
        """
        return unpack(await _call(self._runner.unload(pack(order))), LoadResult)

    async def status(self, max_age: float = 0.0) -> RunnerStatus:
        """Return the runner's status, or the last known one if no response comes within 50 ms.

        Args:
            max_age: age in seconds below which the last known status is returned at once.
        """
        if time.monotonic() - self._status_at < max_age:
            return self._status
        if self._status_task is None or self._status_task.done():
            self._status_task = asyncio.create_task(self._refresh_status())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._status_task), _STATUS_SECONDS)
        return self._status

    async def raise_if_overloaded(self) -> None:
        """Reject a request before its preparation if the runner would reject it.

        The runner still decides on each job. A status older than 1 s is ignored, because the
        backlog may have cleared since.

        Raises:
            Overloaded: the runner accepts no more requests.
        """
        status = await self.status(max_age=_FULL_AGE_SECONDS)
        is_known = time.monotonic() - self._status_at < FULL_TRUSTED_SECONDS
        if is_known and status.retry_after is not None:
            message = f"{status.waiting} requests are waiting"
            raise Overloaded(message, retry_after=status.retry_after)

    async def _refresh_status(self) -> RunnerStatus:
        try:
            self._status = unpack(await self._runner.status(), RunnerStatus)
            if 0.0 < self._runner_started_at < self._status.started_at:
                RUNNER_RESTARTS.inc()
            self._runner_started_at = self._status.started_at
        except _LOST:
            self._status = RunnerStatus("starting")
        self._status_at = time.monotonic()
        return self._status

    async def _read_events(
        self, job: GenerateJob, incoming: asyncio.Queue[Event | ApiError]
    ) -> None:
        """Read a job's event stream to its end, in a task independent of the caller's.

        A connection is reusable once its stream has been read to the end. If the reader is
        cancelled, the connection stays open forever.
        """
        unpacker = Unpacker()
        ended = False
        try:
            async for chunk in self._runner.paint(pack(job)):
                for event in unpacker.feed(chunk):
                    ended = isinstance(event, JobDone | JobFailed)
                    if isinstance(event, JobFailed):
                        incoming.put_nowait(from_failure(event))
                    elif isinstance(event, Event):
                        incoming.put_nowait(event)
                    else:
                        raise TypeError(f"{type(event).__name__} is not an event of a job")
        except _LOST as error:
            log.error("runner lost", error=type(error).__name__)
        except Exception:
            log.exception("runner not understood")
        if not ended:
            incoming.put_nowait(_count_runner_lost())

    async def _await_depth(
        self, job: EstimateJob, result: asyncio.Future[DepthResult | ApiError]
    ) -> None:
        """Await an estimate in a task independent of the caller's; see _read_events."""
        outcome: object = None
        try:
            (outcome,) = Unpacker().feed(await self._runner.estimate(pack(job)))
        except _LOST as error:
            log.error("runner lost", error=type(error).__name__)
        except Exception:
            log.exception("runner not understood")
        if result.done():
            return
        if isinstance(outcome, JobFailed):
            result.set_result(from_failure(outcome))
        else:
            result.set_result(outcome if isinstance(outcome, DepthResult) else _count_runner_lost())

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the background; the reference protects its task from collection."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _final_event(self, job: GenerateJob) -> JobDone:
        async with contextlib.aclosing(self.events(job)) as events:
            async for event in events:
                if isinstance(event, JobDone):
                    return event
        raise _count_runner_lost()

    def _unsubscribe(self, job: GenerateJob | EstimateJob) -> None:
        """Withdraw the caller from a job in the background; its own task is being cancelled."""
        order = CancelCommand.for_disconnect(job)

        async def send_cancel() -> None:
            with contextlib.suppress(ApiError):
                await self.cancel(order)

        self._start(send_cancel())


async def until_disconnect(work: asyncio.Future[T], has_left: IsDisconnected) -> T:
    """Return the result of some work, unless the client disconnects first.

    Raises:
        Conflict: the client disconnected.
    """
    while not work.done():
        await asyncio.wait({work}, timeout=_DISCONNECT_POLL_SECONDS)
        if not work.done() and await has_left():
            raise Conflict("the client has disconnected", code="cancelled")
    return work.result()


async def _call(call: Awaitable[T]) -> T:
    try:
        return await call
    except _LOST as error:
        log.error("runner not reached", error=type(error).__name__)
        raise _count_runner_lost() from error


def _count_runner_lost() -> Unavailable:
    """Count a lost runner and return the error for it."""
    RUNNER_LOST.inc()
    return Unavailable(
        "the runner stopped and is restarting",
        code="runner_lost",
        retry_after=_RETRY_SECONDS,
    )
