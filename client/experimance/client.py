"""Synchronous client."""

from __future__ import annotations

import time
from collections.abc import Generator
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
from experimance.serverless import ServerlessClient
from experimance.status import Health, Loaded, ModelsInfo

T = TypeVar("T")


class Client:
    """Synchronous client of one service.

    Threads may share an instance. Close it, or use it as a context manager.

    Every method raises the exceptions of `experimance.errors`. Connection errors, HTTP 429 and
    HTTP 503 are retried up to `retries` times within `timeout` seconds. A Retry-After header sets
    the delay.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        token: str | None = None,
        timeout: float = 120.0,
        retries: int = 3,
        transport: httpx2.BaseTransport | None = None,
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
        self._http = httpx2.Client(transport=transport, **options(url, token))
        self.url = str(self._http.base_url).rstrip("/")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def serverless(endpoint: str, api_key: str, *, timeout: float = 120.0) -> ServerlessClient:
        """Return a client of a vast.ai endpoint; see `ServerlessClient`.

        Args:
            endpoint: Name of the endpoint.
            api_key: API key of vast.ai.
            timeout: Limit of one call in seconds, the start of a worker included.
        """
        return ServerlessClient(endpoint, api_key, timeout=timeout)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def generate(
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
        return self._call(calls.generate(calls.generate_body(prompt, depth, image, fields)))

    def stream(
        self,
        prompt: str,
        depth: PictureInput | None = None,
        *,
        image: PictureInput | None = None,
        **fields: Unpack[Fields],
    ) -> Generator[Event]:
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

    def estimate_depth(self, photo: PictureInput, **fields: Unpack[EstimateFields]) -> DepthMap:
        """Estimate the depth of a photograph.

        Without `depth_estimator` the service uses its default estimator.
        """
        return self._call(calls.estimate_depth(photo, fields))

    def models(self) -> ModelsInfo:
        """Return the names that requests accept, and their defaults."""
        return self._call(calls.models())

    def health(self) -> Health:
        """Return the current state of the service, without retries."""
        return self._call(calls.health())

    def preload(self, model: str | None = None, controlnet: str | None = None) -> Loaded:
        """Load a variant, a ControlNet, or both, ahead of the first request."""
        return self._call(calls.load("/preload", model, controlnet))

    def unload(self, model: str | None = None, controlnet: str | None = None) -> Loaded:
        """Unload a variant, a ControlNet, or both, once no request uses them."""
        return self._call(calls.load("/unload", model, controlnet))

    def cancel(
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
        return self._call(calls.cancel(request_id, session, all))

    def _call(self, call: calls.Call[T]) -> T:
        attempts = RetryState(self._policy)
        while True:
            try:
                with translate_http_errors(self.url):
                    response = self._http.request(**call.request(attempts.remaining()))
                return call.parse(response)
            except ExperimanceError as error:
                time.sleep(attempts.next_delay(error, call.retryable))

    def _stream_events(self, call: calls.Call[Picture]) -> Generator[Event]:
        attempts = RetryState(self._policy)
        has_started = False
        while True:
            try:
                with (
                    translate_http_errors(self.url, streaming=True),
                    self._http.stream(**call.request(attempts.remaining())) as response,
                ):
                    if response.status_code != 200:
                        response.read()
                        parse_json(response)
                    reader = EventReader(response)
                    for message in httpx2.EventSource(response, LARGEST_EVENT):
                        if (event := reader.parse(message)) is not None:
                            has_started = True
                            yield event
                    reader.close()
                return
            except ExperimanceError as error:
                time.sleep(attempts.next_delay(error, not has_started))
