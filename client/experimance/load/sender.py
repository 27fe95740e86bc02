"""One request out and its answer in, whatever happens on the way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx2

from experimance.load.answer import Answer, failure_of, read_answer, success_of
from experimance.load.clock import Clock
from experimance.load.draft import Draft
from experimance.load.outcomes import BROKEN_STREAM, CONNECTION, LEFT, PROTOCOL, TIMEOUT

_MOST_EVENT_BYTES = 64 * 2**20
_CANCEL_SECONDS = 10.0


def http_client(url: str, token: str | None, connections: int) -> httpx2.AsyncClient:
    """A client that talks to this URL only: no proxy, no redirect, no retry.

    Args:
        url: of the service.
        token: for the Authorization header.
        connections: the most that are open at once.
    """
    limits = httpx2.Limits(
        max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=30.0
    )
    return httpx2.AsyncClient(
        base_url=url,
        headers={"Authorization": f"Bearer {token}"} if token else {},
        # The limit for a whole request is the sender's; the pool never makes anybody wait.
        timeout=httpx2.Timeout(None),
        # With a transport of its own, proxies of the environment are not asked.
        transport=httpx2.AsyncHTTPTransport(limits=limits),
    )


class Sender:
    """Sends drafts; never raises for what a server or a network does."""

    def __init__(
        self, client: httpx2.AsyncClient, clock: Clock, timeout: float, run_id: str
    ) -> None:
        self._client = client
        self._clock = clock
        self._timeout = timeout
        self._run_id = run_id

    async def send(self, draft: Draft, attempt: int = 1) -> Answer:
        """The answer; `asyncio.CancelledError` alone comes through."""
        name = f"{self._run_id}-{draft.number}" + (f"-{attempt}" if attempt > 1 else "")
        request = self._client.build_request(
            "POST",
            draft.route,
            content=draft.body,
            headers={
                "Content-Type": "application/json", "Accept": draft.accept, "X-Request-Id": name,
            },
        )  # fmt: skip
        patience = min(self._timeout, draft.leave_after or math.inf)
        try:
            async with self._cancelled_later(name, draft.cancel_after), asyncio.timeout(patience):
                return await self._exchange(request)
        except TimeoutError:
            if patience < self._timeout:
                return Answer(LEFT)
            return Answer(TIMEOUT, message=f"no answer within {self._timeout:g} s")
        except httpx2.TimeoutException as error:
            return Answer(TIMEOUT, message=_told(error))
        except httpx2.NetworkError as error:
            return Answer(CONNECTION, message=_told(error))
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
            return Answer(PROTOCOL, message=_told(error))

    async def _exchange(self, request: httpx2.Request) -> Answer:
        response = await self._client.send(request, stream=True)
        try:
            kind = response.headers.get("content-type", "")
            if response.status_code == httpx2.codes.OK and kind.startswith("text/event-stream"):
                return await self._listen(response)
            return read_answer(response, await response.aread())
        finally:
            await response.aclose()

    async def _listen(self, response: httpx2.Response) -> Answer:
        first = math.nan
        async for event in httpx2.EventSource(response, max_event_size=_MOST_EVENT_BYTES):
            if event.event == "step" and math.isnan(first):
                first = self._clock.now()
            elif event.event in {"done", "error"}:
                try:
                    document = json.loads(event.data)
                except ValueError:
                    document = None
                if event.event == "done":
                    return replace(success_of(document), first=first)
                # The status of an error that a stream ends with went out as 200 before.
                return replace(failure_of(document, response.status_code), first=first)
        return Answer(BROKEN_STREAM, response.status_code, message="ended without done or error")

    @contextlib.asynccontextmanager
    async def _cancelled_later(self, name: str, after: float | None) -> AsyncIterator[None]:
        """Meanwhile, ask the server to cancel the request when its time has come."""
        if after is None:
            yield
            return
        task = asyncio.create_task(self._cancel(name, after))
        try:
            yield
        finally:
            task.cancel()

    async def _cancel(self, name: str, after: float) -> None:
        await asyncio.sleep(after)
        with contextlib.suppress(httpx2.HTTPError, TimeoutError):
            async with asyncio.timeout(_CANCEL_SECONDS):
                await self._client.post("/cancel", json={"request_id": name})


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
