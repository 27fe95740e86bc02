"""Clients of a vast.ai endpoint, based on vast.ai's own package.

That package finds a worker, waits for its start, signs requests and retries them on other workers.
It is imported when a client is opened: `pip install experimance-client[serverless]`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping
from typing import Any, Self, Unpack

from experimance.endpoints import generate_body
from experimance.errors import (
    ConnectionFailed,
    ExperimanceError,
    InvalidInput,
    StreamEnded,
    TimedOut,
    UnexpectedAnswer,
)
from experimance.events import Done, Event
from experimance.image_input import PictureInput
from experimance.request_fields import Fields
from experimance.response_parsing import parse_error, parse_event, parse_picture
from experimance.results import Picture


class AsyncServerlessClient:
    """Asynchronous client of an endpoint's workers, usable as an asynchronous context manager."""

    def __init__(
        self,
        endpoint: str,
        api_key: str | None = None,
        *,
        timeout: float = 120.0,
        platform: Any = None,
    ) -> None:
        """Prepare the client without sending anything.

        Args:
            endpoint: Name of the endpoint.
            api_key: API key of vast.ai; defaults to the environment variable VAST_API_KEY.
            timeout: Limit of one call in seconds, the start of a worker included.
            platform: Custom client of vast.ai's package, for another URL of the platform.
        """
        self.endpoint = endpoint
        self._timeout = timeout
        self._key = api_key or os.environ.get("VAST_API_KEY")
        self._platform = platform
        self._endpoint_handle: Any = None

    async def __aenter__(self) -> Self:
        if self._platform is None:
            self._platform = _open_platform(self._key)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        if self._platform is not None:
            await self._platform.close()

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
        body = generate_body(prompt, depth, image, fields)
        answer = await self._request("/generate", body, stream=False)
        async with _translate_errors(self._timeout):
            return parse_picture(answer)

    async def stream(
        self,
        prompt: str,
        depth: PictureInput | None = None,
        *,
        image: PictureInput | None = None,
        **fields: Unpack[Fields],
    ) -> AsyncGenerator[Event]:
        """Generate one or more images with progress events.

        Leaving the loop stops the request.

        Args:
            prompt: Text that describes the image.
            depth: Depth map, near = bright: a path, file content, a PIL image, a numpy array, or
                "mock" for a built-in hill.
            image: Photograph for depth estimation or, with `strength`, the init image.
            **fields: All other request fields; see `Fields`.

        Yields:
            Queued, Started and Step events, then one Done event.

        Raises:
            ExperimanceError: The request failed; see `experimance.errors`.
            OSError: A file cannot be read.
        """
        body = generate_body(prompt, depth, image, fields)
        contents = await self._request("/generate_stream", body, stream=True)
        async with contextlib.aclosing(contents), _translate_errors(self._timeout):
            async for content in contents:
                event = parse_event(_event_name(content), content)
                if event is not None:
                    yield event
                if isinstance(event, Done):
                    return
        raise StreamEnded(f"{self.endpoint}: the stream ended before its image arrived")

    async def _request(self, route: str, body: dict[str, Any], *, stream: bool) -> Any:
        async with _translate_errors(self._timeout), asyncio.timeout(self._timeout):
            if self._endpoint_handle is None:
                if self._platform is None:
                    self._platform = _open_platform(self._key)
                self._endpoint_handle = await self._platform.get_endpoint(self.endpoint)
            outcome = await self._endpoint_handle.request(
                route, body, timeout=self._timeout, stream=stream
            )
        answer = outcome["response"]
        if outcome["ok"]:
            return answer
        if isinstance(answer, Mapping) and "error_message" in answer:
            raise parse_error(answer, outcome["status"])
        raise UnexpectedAnswer(f"{self.endpoint}: HTTP {outcome['status']} from a worker: {answer}")


class ServerlessClient:
    """Synchronous counterpart of `AsyncServerlessClient` with the same arguments.

    Close it, or use it as a context manager.
    """

    def __init__(
        self,
        endpoint: str,
        api_key: str | None = None,
        *,
        timeout: float = 120.0,
        platform: Any = None,
    ) -> None:
        self._client = AsyncServerlessClient(endpoint, api_key, timeout=timeout, platform=platform)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        try:
            self._runner.run(self._client.__aenter__())
        except BaseException:
            self._runner.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._runner.run(self._client.close())
        self._runner.close()

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
        return self._runner.run(self._client.generate(prompt, depth, image=image, **fields))

    def stream(
        self,
        prompt: str,
        depth: PictureInput | None = None,
        *,
        image: PictureInput | None = None,
        **fields: Unpack[Fields],
    ) -> Generator[Event]:
        """Generate one or more images with progress events.

        Leaving the loop stops the request.

        Args:
            prompt: Text that describes the image.
            depth: Depth map, near = bright: a path, file content, a PIL image, a numpy array, or
                "mock" for a built-in hill.
            image: Photograph for depth estimation or, with `strength`, the init image.
            **fields: All other request fields; see `Fields`.

        Yields:
            Queued, Started and Step events, then one Done event.

        Raises:
            ExperimanceError: The request failed; see `experimance.errors`.
            OSError: A file cannot be read.
        """
        events = self._client.stream(prompt, depth, image=image, **fields)

        async def next_event() -> Event | None:
            return await anext(events, None)

        try:
            while (event := self._runner.run(next_event())) is not None:
                yield event
        finally:
            self._runner.run(events.aclose())


def _open_platform(api_key: str | None) -> Any:
    try:
        from vastai import CoroutineServerless
    except ImportError as error:
        raise InvalidInput(
            f"vast.ai's package cannot be imported ({error}): "
            "pip install 'experimance-client[serverless]'"
        ) from error
    if not api_key:
        raise InvalidInput("api_key: pass a vast.ai API key, or set VAST_API_KEY")
    return CoroutineServerless(api_key)


@contextlib.asynccontextmanager
async def _translate_errors(seconds: float) -> AsyncIterator[None]:
    """Translate the exceptions of vast.ai's package, many of them bare, into this package's."""
    try:
        yield
    except ExperimanceError:
        raise
    except TimeoutError as error:
        raise TimedOut(f"no answer within {seconds:g} s") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnexpectedAnswer(f"vast.ai: invalid response: {error!r}") from error
    except Exception as error:
        raise ConnectionFailed(f"vast.ai: {error}") from error


def _event_name(content: object) -> str:
    """Return the event type of bare event data, or "" if the data fits none.

    vast.ai's package drops the event names.
    """
    if not isinstance(content, Mapping):
        return ""
    if "success" in content:
        return "done" if content["success"] else "error"
    if "position" in content:
        return "queued"
    if content.keys() >= {"step", "steps"}:
        return "step"
    return "" if content else "started"
