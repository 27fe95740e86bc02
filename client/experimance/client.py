"""The client for ordinary code."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import TypeVar, Unpack

import httpx2

from experimance import calls
from experimance.answers import LARGEST_EVENT, Listener, content_of, told
from experimance.connection import DEFAULT_URL, options
from experimance.errors import ExperimanceError
from experimance.events import Event
from experimance.fields import EstimateFields, Fields
from experimance.inputs import PictureInput
from experimance.picture import DepthMap, Picture
from experimance.retrying import Attempts, Limits
from experimance.serverless import ServerlessClient
from experimance.states import Health, Loaded, ModelsInfo

T = TypeVar("T")


class Client:
    """Asks a service for pictures. Threads may share one; close it, or use it in a `with`.

    Every method raises the errors of `experimance.errors`. Failed connections, 429 and 503 are
    tried again, `retries` times and within `timeout` seconds, when the service says.
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
        """Nothing is sent yet.

        Args:
            url: of the service.
            token: the bearer token, where the service asks for one.
            timeout: seconds that a call may take, further tries included; of a stream, how long
                it may be silent.
            retries: how often a call is tried again.
            transport: for tests and special networks; see httpx2.

        Raises:
            ValueError: one of them is not acceptable.
        """
        self._limits = Limits(timeout, retries)
        self._http = httpx2.Client(transport=transport, **options(url, token))
        self.url = str(self._http.base_url).rstrip("/")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def serverless(endpoint: str, api_key: str, *, timeout: float = 120.0) -> ServerlessClient:
        """A client of a vast.ai endpoint; see ServerlessClient."""
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
        """Paint a picture.

        Args:
            prompt: what to paint.
            depth: near = bright; a path, a file's bytes, a PIL image, a numpy array, or "mock"
                for a hill.
            image: a photograph whose depth is estimated, or, with strength, the picture to start
                from.
            **fields: everything else; see Fields.
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
        """Paint a picture and hear how it goes; arguments as of `generate`.

        Leaving the loop, or closing the generator, ends the work on the service. Nothing is tried
        again once an event has come.
        """
        body = calls.generate_body(prompt, depth, image, fields)
        return self._listen(calls.generate_stream(body))

    def estimate_depth(self, photo: PictureInput, **fields: Unpack[EstimateFields]) -> DepthMap:
        """Estimate a photograph's depth; the service's default estimator where none is named."""
        return self._call(calls.estimate_depth(photo, fields))

    def models(self) -> ModelsInfo:
        """What requests may name, with defaults."""
        return self._call(calls.models())

    def health(self) -> Health:
        """How the service is at this moment; asked once."""
        return self._call(calls.health())

    def preload(self, model: str | None = None, controlnet: str | None = None) -> Loaded:
        """Load a variant, a ControlNet, or both, before they are needed."""
        return self._call(calls.load("/preload", model, controlnet))

    def unload(self, model: str | None = None, controlnet: str | None = None) -> Loaded:
        """Forget a variant, a ControlNet, or both, once nothing uses them."""
        return self._call(calls.load("/unload", model, controlnet))

    def cancel(
        self,
        request_id: str | None = None,
        *,
        session: str | None = None,
        all: bool = False,  # noqa: A002
    ) -> tuple[str, ...]:
        """End a request, a session's requests, or all; returns the ids of what was ended."""
        return self._call(calls.cancel(request_id, session, all))

    def _call(self, call: calls.Call[T]) -> T:
        attempts = Attempts(self._limits)
        while True:
            try:
                with told(self.url):
                    response = self._http.request(**call.request(attempts.remaining()))
                return call.answer(response)
            except ExperimanceError as error:
                time.sleep(attempts.pause(error, call.again))

    def _listen(self, call: calls.Call[Picture]) -> Generator[Event]:
        attempts = Attempts(self._limits)
        begun = False
        while True:
            try:
                with (
                    told(self.url, streaming=True),
                    self._http.stream(**call.request(attempts.remaining())) as response,
                ):
                    if response.status_code != 200:
                        response.read()
                        content_of(response)
                    listener = Listener(response)
                    for sent in httpx2.EventSource(response, LARGEST_EVENT):
                        if (event := listener.heard(sent)) is not None:
                            begun = True
                            yield event
                    listener.close()
                return
            except ExperimanceError as error:
                time.sleep(attempts.pause(error, not begun))
