"""Answers of a service, and both clients asking it without a network."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Callable
from typing import Any, Literal

import httpx2
import pytest
from PIL import Image

from experimance import AsyncClient, Client

Handler = Callable[[httpx2.Request], httpx2.Response]
Kind = Literal["sync", "async"]


def picture_file(colour: str = "red", file_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, file_format)
    return buffer.getvalue()


def painted(**changes: Any) -> dict[str, Any]:
    """The answer of /generate."""
    text = base64.b64encode(picture_file()).decode()
    return {
        "success": True, "image_b64": text, "images_b64": [text], "depth_map_b64": None,
        "generation_time": 0.5, "seed_used": 7, "model_used": "base", "request_id": "r",
        "metadata": {"steps": 2, "width": 8, "height": 8, "warnings": ["odd"]}, **changes,
    }  # fmt: skip


def refused(status: int, code: str, message: str = "no", **more: Any) -> httpx2.Response:
    """An error in the contract's form; `headers` among `more` are the response's."""
    headers = more.pop("headers", {})
    body = {"success": False, "error": code, "error_message": message, "detail": [],
            "request_id": "r", **more}  # fmt: skip
    return httpx2.Response(status, json=body, headers=headers)


def events(*named: tuple[str, dict[str, Any]]) -> bytes:
    """A stream of events."""
    return b"".join(f"event: {name}\ndata: {json.dumps(data)}\n\n".encode() for name, data in named)


class Answers:
    """Answers one after the other, the last one again and again; keeps the requests."""

    def __init__(self, *answers: httpx2.Response | Exception | Handler) -> None:
        self._answers = list(answers)
        self.requests: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        if not isinstance(answer, httpx2.Response):
            return answer(request)
        if not answer.is_stream_consumed:
            return answer
        # A response belongs to the client that got it.
        return httpx2.Response(answer.status_code, headers=answer.headers, content=answer.content)

    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(request.content) for request in self.requests]


class Asker:
    """Calls a method of the sync or the async client, and hears its streams out."""

    def __init__(self, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kind = kind
        self.pauses: list[float] = []
        rest = asyncio.sleep

        async def pause(seconds: float) -> None:
            if seconds:
                self.pauses.append(seconds)
            await rest(0)

        monkeypatch.setattr("time.sleep", self.pauses.append)
        monkeypatch.setattr("asyncio.sleep", pause)

    def ask(self, handler: Handler, method: str, *args: Any, **fields: Any) -> Any:
        """What the method gives; of a stream the list of its events."""
        options = {name: fields.pop(name) for name in ("token", "timeout", "retries")
                   if name in fields}  # fmt: skip
        transport = httpx2.MockTransport(handler)
        if self.kind == "sync":
            with Client("http://service", transport=transport, **options) as client:
                got = getattr(client, method)(*args, **fields)
                return list(got) if method == "stream" else got

        async def call() -> Any:
            async with AsyncClient("http://service", transport=transport, **options) as client:
                got = getattr(client, method)(*args, **fields)
                return [event async for event in got] if method == "stream" else await got

        return asyncio.run(call())
