"""Asynchronous client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TypeVar, Unpack

import httpx2

from experimance import endpoints as calls
from experimance.errors import ExperimanceError
from experimance.events import Event
from experimance.http_options import DEFAULT_URL, options
from experimance.image_input import PictureInput
from experimance.request_fields import EstimateFields, Fields
from experimance.response_parsing import (
    LARGEST_EVENT,
    EventReader,
    parse_json,
    translate_http_errors,
)
from experimance.results import DepthMap, Picture
from experimance.retry import RetryPolicy, RetryState
from experimance.serverless import AsyncServerlessClient
from experimance.status import Health, Loaded, ModelsInfo

T = TypeVar("T")


class AsyncClient:
    """Asynchronous counterpart of `Client`, usable as an asynchronous context manager.

    Cancelling a task closes its connection, and the service stops the request.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        token: str | None = None,
        timeout: float = 120.0,
        retries: int = 3,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        """Prepare the client without sending anything.

        Args:
            url: Base URL of the service.
            token: Bearer token, if the service requires one.
            timeout: Limit of one call in seconds, retries and delays included. For a stream, the
                longest gap between events in seconds.
            retries: Maximum number of retries per call.
            transport: Custom httpx2 transport, for tests and special networks.

        Raises:
            InvalidInput: `url` or `token` is invalid.
            ValueError: `timeout` or `retries` is out of range.
        """
        self._policy = RetryPolicy(timeout, retries)
        self._http = httpx2.AsyncClient(transport=transport, **options(url, token))
        self.url = str(self._http.base_url).rstrip("/")

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @staticmethod
    def serverless(endpoint: str, api_key: str, *, timeout: float = 120.0) -> AsyncServerlessClient:
        """Return a client of a vast.ai endpoint; see `AsyncServerlessClient`.

        Args:
            endpoint: Name of the endpoint.
            api_key: API key of vast.ai.
            timeout: Limit of one call in seconds, the start of a worker included.
        """
        return AsyncServerlessClient(endpoint, api_key, timeout=timeout)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def generate(
        self,
        prompt: str,
        depth: PictureInput | None = None,
        *,
        image: PictureInput | None = None,
        **fields: Unpack[Fields],
    ) -> Picture:
        """Generate one or more images.

        Args:
            prompt: Text that describes the image.
            depth: Depth map, near = bright: a path, file content, a PIL image, a numpy array, or
                "mock" for a built-in hill.
            image: Photograph for depth estimation or, with `strength`, the init image.
            **fields: All other request fields; see `Fields`.

        Raises:
            ExperimanceError: The request failed; see `experimance.errors`.
            OSError: A file cannot be read.
        """
        return await self._call(calls.generate(calls.generate_body(prompt, depth, image, fields)))

    def stream(
        self,
        prompt: str,
        depth: PictureInput | None = None,
        *,
        image: PictureInput | None = None,
        **fields: Unpack[Fields],
    ) -> AsyncGenerator[Event]:
        """Generate one or more images with progress events.

        Leaving the loop or closing the generator stops the request on the service. A stream is
        retried only until its first event.

        Args:
            prompt: Text that describes the image.
            depth: Depth map, near = bright: a path, file content, a PIL image, a numpy array, or
                "mock" for a built-in hill.
            image: Photograph for depth estimation or, with `strength`, the init image.
            **fields: All other request fields; see `Fields`.

        Returns:
            A generator of Queued, Started and Step events that ends with one Done event.

        Raises:
            ExperimanceError: The request failed; see `experimance.errors`.
            OSError: A file cannot be read.
        """
        body = calls.generate_body(prompt, depth, image, fields)
        return self._stream_events(calls.generate_stream(body))

    async def estimate_depth(
        self, photo: PictureInput, **fields: Unpack[EstimateFields]
    ) -> DepthMap:
        """Estimate the depth of a photograph.

        Without `depth_estimator` the service uses its default estimator.
        """
        return await self._call(calls.estimate_depth(photo, fields))

    async def models(self) -> ModelsInfo:
        """Return the names that requests accept, and their defaults."""
        return await self._call(calls.models())

    async def health(self) -> Health:
        """Return the current state of the service, without retries."""
        return await self._call(calls.health())

    async def preload(self, model: str | None = None, controlnet: str | None = None) -> Loaded:
        """Load a variant, a ControlNet, or both, ahead of the first request."""
        return await self._call(calls.load("/preload", model, controlnet))

    async def unload(self, model: str | None = None, controlnet: str | None = None) -> Loaded:
        """Unload a variant, a ControlNet, or both, once no request uses them."""
        return await self._call(calls.load("/unload", model, controlnet))

    async def cancel(
        self,
        request_id: str | None = None,
        *,
        session: str | None = None,
        all: bool = False,  # noqa: A002
    ) -> tuple[str, ...]:
        """Cancel one request, the requests of a session, or all requests.

        Args:
            request_id: Id of the request to cancel.
            session: Session whose requests are cancelled.
            all: Whether to cancel every request of the service.

        Returns:
            Ids of the cancelled requests.
        """
        return await self._call(calls.cancel(request_id, session, all))

    async def _call(self, call: calls.Call[T]) -> T:
        attempts = RetryState(self._policy)
        while True:
            try:
                with translate_http_errors(self.url):
                    response = await self._http.request(**call.request(attempts.remaining()))
                return call.parse(response)
            except ExperimanceError as error:
                await asyncio.sleep(attempts.next_delay(error, call.retryable))

    async def _stream_events(self, call: calls.Call[Picture]) -> AsyncGenerator[Event]:
        attempts = RetryState(self._policy)
        has_started = False
        while True:
            try:
                with translate_http_errors(self.url, streaming=True):
                    request = call.request(attempts.remaining())
                    async with self._http.stream(**request) as response:
                        if response.status_code != 200:
                            await response.aread()
                            parse_json(response)
                        reader = EventReader(response)
                        async for message in httpx2.EventSource(response, LARGEST_EVENT):
                            if (event := reader.parse(message)) is not None:
                                has_started = True
                                yield event
                        reader.close()
                return
            except ExperimanceError as error:
                await asyncio.sleep(attempts.next_delay(error, not has_started))
