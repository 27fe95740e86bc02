"""The client for asynchronous code."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
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
from experimance.serverless import AsyncServerlessClient
from experimance.states import Health, Loaded, ModelsInfo

T = TypeVar("T")


class AsyncClient:
    """Client, to be awaited; in an `async with`. Cancelling a task ends its work on the service."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        token: str | None = None,
        timeout: float = 120.0,
        retries: int = 3,
        transport: httpx2.AsyncBaseTransport | None = None,
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
        self._http = httpx2.AsyncClient(transport=transport, **options(url, token))
        self.url = str(self._http.base_url).rstrip("/")

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @staticmethod
    def serverless(endpoint: str, api_key: str, *, timeout: float = 120.0) -> AsyncServerlessClient:
        """A client of a vast.ai endpoint; see AsyncServerlessClient."""
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
        """Paint a picture.

        Args:
            prompt: what to paint.
            depth: near = bright; a path, a file's bytes, a PIL image, a numpy array, or "mock"
                for a hill.
            image: a photograph whose depth is estimated, or, with strength, the picture to start
                from.
            **fields: everything else; see Fields.
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
        """Paint a picture and hear how it goes; arguments as of `generate`.

        Leaving the loop, or closing the generator, ends the work on the service. Nothing is tried
        again once an event has come.
        """
        body = calls.generate_body(prompt, depth, image, fields)
        return self._listen(calls.generate_stream(body))

    async def estimate_depth(
        self, photo: PictureInput, **fields: Unpack[EstimateFields]
    ) -> DepthMap:
        """Estimate a photograph's depth; the service's default estimator where none is named."""
        return await self._call(calls.estimate_depth(photo, fields))

    async def models(self) -> ModelsInfo:
        """What requests may name, with defaults."""
        return await self._call(calls.models())

    async def health(self) -> Health:
        """How the service is at this moment; asked once."""
        return await self._call(calls.health())

    async def preload(self, model: str | None = None, controlnet: str | None = None) -> Loaded:
        """Load a variant, a ControlNet, or both, before they are needed."""
        return await self._call(calls.load("/preload", model, controlnet))

    async def unload(self, model: str | None = None, controlnet: str | None = None) -> Loaded:
        """Forget a variant, a ControlNet, or both, once nothing uses them."""
        return await self._call(calls.load("/unload", model, controlnet))

    async def cancel(
        self,
        request_id: str | None = None,
        *,
        session: str | None = None,
        all: bool = False,  # noqa: A002
    ) -> tuple[str, ...]:
        """End a request, a session's requests, or all; returns the ids of what was ended."""
        return await self._call(calls.cancel(request_id, session, all))

    async def _call(self, call: calls.Call[T]) -> T:
        attempts = Attempts(self._limits)
        while True:
            try:
                with told(self.url):
                    response = await self._http.request(**call.request(attempts.remaining()))
                return call.answer(response)
            except ExperimanceError as error:
                await asyncio.sleep(attempts.pause(error, call.again))

    async def _listen(self, call: calls.Call[Picture]) -> AsyncGenerator[Event]:
        attempts = Attempts(self._limits)
        begun = False
        while True:
            try:
                with told(self.url, streaming=True):
                    request = call.request(attempts.remaining())
                    async with self._http.stream(**request) as response:
                        if response.status_code != 200:
                            await response.aread()
                            content_of(response)
                        listener = Listener(response)
                        async for sent in httpx2.EventSource(response, LARGEST_EVENT):
                            if (event := listener.heard(sent)) is not None:
                                begun = True
                                yield event
                        listener.close()
                return
            except ExperimanceError as error:
                await asyncio.sleep(attempts.pause(error, not begun))
