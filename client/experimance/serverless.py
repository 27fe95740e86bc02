"""Pictures from a vast.ai endpoint, through vast.ai's own package.

That finds a worker, waits for one to start, signs, and repeats what may go better on another one.
It is imported when a client is opened: `pip install experimance-client[serverless]`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping
from typing import Any, Self, Unpack

from experimance.answers import error_of, event_of, picture_of
from experimance.calls import generate_body
from experimance.errors import (
    ConnectionFailed,
    ExperimanceError,
    InvalidInput,
    StreamEnded,
    TimedOut,
    UnexpectedAnswer,
)
from experimance.events import Done, Event
from experimance.fields import Fields
from experimance.inputs import PictureInput
from experimance.picture import Picture


class AsyncServerlessClient:
    """Paints on the workers of an endpoint; in an `async with`."""

    def __init__(
        self,
        endpoint: str,
        api_key: str | None = None,
        *,
        timeout: float = 120.0,
        platform: Any = None,
    ) -> None:
        """Nothing is sent yet.

        Args:
            endpoint: its name.
            api_key: of vast.ai; VAST_API_KEY of the environment where it is None.
            timeout: seconds that a call may take, the start of a worker included.
            platform: a client of vast.ai's package to use, for another address of the platform.
        """
        self.endpoint = endpoint
        self._timeout = timeout
        self._key = api_key or os.environ.get("VAST_API_KEY")
        self._platform = platform
        self._found: Any = None

    async def __aenter__(self) -> Self:
        if self._platform is None:
            self._platform = _opened(self._key)
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
        """Paint a picture; arguments as of Client.generate."""
        body = generate_body(prompt, depth, image, fields)
        answer = await self._request("/generate", body, stream=False)
        async with _translated(self._timeout):
            return picture_of(answer)

    async def stream(
        self,
        prompt: str,
        depth: PictureInput | None = None,
        *,
        image: PictureInput | None = None,
        **fields: Unpack[Fields],
    ) -> AsyncGenerator[Event]:
        """Paint a picture and hear how it goes; leaving the loop ends the work."""
        body = generate_body(prompt, depth, image, fields)
        sent = await self._request("/generate_stream", body, stream=True)
        async with contextlib.aclosing(sent), _translated(self._timeout):
            async for content in sent:
                event = event_of(_name_of(content), content)
                if event is not None:
                    yield event
                if isinstance(event, Done):
                    return
        raise StreamEnded(f"{self.endpoint}: the stream ended before its picture came")

    async def _request(self, route: str, body: dict[str, Any], *, stream: bool) -> Any:
        async with _translated(self._timeout), asyncio.timeout(self._timeout):
            if self._found is None:
                if self._platform is None:
                    self._platform = _opened(self._key)
                self._found = await self._platform.get_endpoint(self.endpoint)
            outcome = await self._found.request(route, body, timeout=self._timeout, stream=stream)
        answer = outcome["response"]
        if outcome["ok"]:
            return answer
        if isinstance(answer, Mapping) and "error_message" in answer:
            raise error_of(answer, outcome["status"])
        raise UnexpectedAnswer(f"{self.endpoint}: HTTP {outcome['status']} from a worker: {answer}")


class ServerlessClient:
    """AsyncServerlessClient for ordinary code, in a `with`; arguments as there."""

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
        """Paint a picture; arguments as of Client.generate."""
        return self._runner.run(self._client.generate(prompt, depth, image=image, **fields))

    def stream(
        self,
        prompt: str,
        depth: PictureInput | None = None,
        *,
        image: PictureInput | None = None,
        **fields: Unpack[Fields],
    ) -> Generator[Event]:
        """Paint a picture and hear how it goes; leaving the loop ends the work."""
        events = self._client.stream(prompt, depth, image=image, **fields)

        async def following() -> Event | None:
            return await anext(events, None)

        try:
            while (event := self._runner.run(following())) is not None:
                yield event
        finally:
            self._runner.run(events.aclose())


def _opened(api_key: str | None) -> Any:
    try:
        from vastai import CoroutineServerless
    except ImportError as error:
        raise InvalidInput(
            f"vast.ai's package cannot be imported ({error}): "
            "pip install 'experimance-client[serverless]'"
        ) from error
    if not api_key:
        raise InvalidInput("api_key: give vast.ai's, or set VAST_API_KEY")
    return CoroutineServerless(api_key)


@contextlib.asynccontextmanager
async def _translated(seconds: float) -> AsyncIterator[None]:
    """The platform's package raises bare exceptions; here they become this package's."""
    try:
        yield
    except ExperimanceError:
        raise
    except TimeoutError as error:
        raise TimedOut(f"no answer within {seconds:g} s") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnexpectedAnswer(f"vast.ai: an answer that is not understood: {error!r}") from error
    except Exception as error:
        raise ConnectionFailed(f"vast.ai: {error}") from error


def _name_of(content: Mapping[str, Any]) -> str:
    """Which event it is: the platform's package hands over their data alone."""
    if "success" in content:
        return "done" if content["success"] else "error"
    for key, name in (("position", "queued"), ("step", "step")):
        if key in content:
            return name
    return "started"
