"""HTTP client of the load test and the outcome of each response."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import httpx2

from experimance.load.outcomes import (
    BAD_ANSWER,
    BROKEN_STREAM,
    CONNECTION,
    LEFT,
    OK,
    PHASES,
    PROTOCOL,
    TIMEOUT,
)  # fmt: skip
from experimance.load.request_factory import PlannedRequest

_NO_TIMINGS = (math.nan,) * len(PHASES)
_MAX_RETRY_AFTER_SECONDS = 300.0
_MAX_EVENT_BYTES = 64 * 2**20
_CANCEL_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of one request.

    Attributes:
        code: `ok`, a code of the wire contract, or one of `outcomes`.
        status: HTTP status; 0 without a response.
        timings: Seconds reported by the server, in the order of `PHASES`.
        first: Time of a stream's first step event on the sender's clock, in seconds.
        retry_after: Delay requested by the server, in seconds.
        message: Error message.
    """

    code: str
    status: int = 0
    timings: tuple[float, ...] = _NO_TIMINGS
    first: float = math.nan
    retry_after: float | None = None
    message: str = ""


def parse_response(response: httpx2.Response, content: bytes) -> Outcome:
    """Return the outcome of a complete HTTP response."""
    is_json = response.headers.get("content-type", "").startswith("application/json")
    if response.status_code == httpx2.codes.OK and not is_json:
        return _parse_image(response, content)
    document = _parse_json(content) if is_json else None
    if response.status_code == httpx2.codes.OK:
        return parse_success(document)
    return parse_failure(document, response.status_code, response.headers.get("retry-after"))


def parse_success(document: Any) -> Outcome:
    """Return the outcome of a JSON response with an image."""
    if not isinstance(document, Mapping) or not document.get("image_b64"):
        return Outcome(BAD_ANSWER, 200, message="200 without image_b64")
    metadata = document.get("metadata")
    timings = metadata.get("timings") if isinstance(metadata, Mapping) else None
    return Outcome(OK, 200, timings=_parse_timings(timings))


def parse_failure(document: Any, status: int, retry_after: str | None = None) -> Outcome:
    """Return the outcome of an error response.

    Args:
        document: JSON body, or None if the body is not JSON.
        status: HTTP status.
        retry_after: Value of the header Retry-After.
    """
    seconds = None
    if retry_after is not None and retry_after.isdigit():
        seconds = min(float(retry_after), _MAX_RETRY_AFTER_SECONDS)
    if isinstance(document, Mapping) and isinstance(document.get("error"), str):
        message = str(document.get("error_message") or "")
        return Outcome(document["error"], status, retry_after=seconds, message=message)
    message = "not an error body of the contract"
    return Outcome(f"http_{status}", status, retry_after=seconds, message=message)


def _parse_image(response: httpx2.Response, content: bytes) -> Outcome:
    media_type = response.headers.get("content-type", "no type")
    if not media_type.startswith("image/") or not content:
        message = f"200 with {len(content)} bytes of {media_type}"
        return Outcome(BAD_ANSWER, 200, message=message)
    timings = _parse_json(response.headers.get("x-timings", "null"))
    return Outcome(OK, 200, timings=_parse_timings(timings))


def _parse_json(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _parse_timings(document: Any) -> tuple[float, ...]:
    if not isinstance(document, Mapping):
        return _NO_TIMINGS
    values = (document.get(phase) for phase in PHASES)
    return tuple(float(v) if isinstance(v, int | float) else math.nan for v in values)


def make_client(url: str, token: str | None, connections: int) -> httpx2.AsyncClient:
    """Return a client of one URL, without proxies, redirects and retries.

    Args:
        url: Base URL of the service.
        token: Bearer token.
        connections: Maximum number of open connections.
    """
    limits = httpx2.Limits(
        max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=30.0
    )
    return httpx2.AsyncClient(
        base_url=url,
        headers={"Authorization": f"Bearer {token}"} if token else {},
        # The sender limits whole requests; waiting for a pooled connection has no limit of its own.
        timeout=httpx2.Timeout(None),
        # An explicit transport ignores the proxies of the environment.
        transport=httpx2.AsyncHTTPTransport(limits=limits),
    )


class Sender:
    """Sends requests; server and network errors become outcomes instead of exceptions.

    Args:
        client: HTTP client with the service's base URL.
        now: Clock of the run, in seconds.
        timeout: Seconds until a request fails.
        run_id: Prefix of the request ids.
    """

    def __init__(
        self, client: httpx2.AsyncClient, now: Callable[[], float], timeout: float, run_id: str
    ) -> None:
        self._client = client
        self._now = now
        self._timeout = timeout
        self._run_id = run_id

    async def send(self, planned: PlannedRequest, attempt: int = 1) -> Outcome:
        """Return the outcome of one attempt.

        Raises:
            asyncio.CancelledError: The task was cancelled.
        """
        request_id = f"{self._run_id}-{planned.number}" + (f"-{attempt}" if attempt > 1 else "")
        request = self._client.build_request(
            "POST",
            planned.route,
            content=planned.body,
            headers={
                "Content-Type": "application/json", "Accept": planned.accept,
                "X-Request-Id": request_id,
            },
        )  # fmt: skip
        seconds = min(self._timeout, planned.leave_after or math.inf)
        cancellation = self._cancel_later(request_id, planned.cancel_after)
        try:
            async with cancellation, asyncio.timeout(seconds):
                return await self._exchange(request)
        except TimeoutError:
            if seconds < self._timeout:
                return Outcome(LEFT)
            return Outcome(TIMEOUT, message=f"no response within {self._timeout:g} s")
        except httpx2.TimeoutException as error:
            return Outcome(TIMEOUT, message=_describe(error))
        except httpx2.NetworkError as error:
            return Outcome(CONNECTION, message=_describe(error))
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
            return Outcome(PROTOCOL, message=_describe(error))

    async def _exchange(self, request: httpx2.Request) -> Outcome:
        response = await self._client.send(request, stream=True)
        try:
            media_type = response.headers.get("content-type", "")
            is_stream = media_type.startswith("text/event-stream")
            if response.status_code == httpx2.codes.OK and is_stream:
                return await self._read_events(response)
            return parse_response(response, await response.aread())
        finally:
            await response.aclose()

    async def _read_events(self, response: httpx2.Response) -> Outcome:
        first = math.nan
        async for event in httpx2.EventSource(response, max_event_size=_MAX_EVENT_BYTES):
            if event.event == "step" and math.isnan(first):
                first = self._now()
            elif event.event == "done":
                return replace(parse_success(_parse_json(event.data)), first=first)
            elif event.event == "error":
                # The HTTP status was sent as 200 before the error occurred.
                outcome = parse_failure(_parse_json(event.data), response.status_code)
                return replace(outcome, first=first)
        return Outcome(BROKEN_STREAM, response.status_code, message="ended without done or error")

    @contextlib.asynccontextmanager
    async def _cancel_later(self, request_id: str, after: float | None) -> AsyncIterator[None]:
        """Cancel the request through the server if the context lasts longer than `after` s."""
        if after is None:
            yield
            return
        task = asyncio.create_task(self._cancel(request_id, after))
        try:
            yield
        finally:
            task.cancel()

    async def _cancel(self, request_id: str, after: float) -> None:
        await asyncio.sleep(after)
        with contextlib.suppress(httpx2.HTTPError, TimeoutError):
            async with asyncio.timeout(_CANCEL_TIMEOUT_SECONDS):
                await self._client.post("/cancel", json={"request_id": request_id})


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
