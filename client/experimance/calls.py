"""Every call to the service: what is sent, and how its answer is read. Nothing here sends."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import httpx2

from experimance.answers import content_of, depth_map_of, picture_of
from experimance.errors import UnexpectedAnswer
from experimance.inputs import PictureInput, encoded
from experimance.picture import DepthMap, Picture
from experimance.states import Health, Loaded, ModelsInfo

T = TypeVar("T")
_CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class Call(Generic[T]):
    """A route, what is posted to it (None: a GET), and how to read an answer of status 200.

    `again` is whether it may be tried again; `also` are other statuses that are answers too.
    """

    route: str
    body: dict[str, Any] | None
    read: Callable[[dict[str, Any]], T]
    again: bool = True
    also: frozenset[int] = frozenset()
    accept: str = "application/json"

    def request(self, seconds: float) -> dict[str, Any]:
        """Arguments for an HTTP client's `request`."""
        return {
            "method": "GET" if self.body is None else "POST",
            "url": self.route,
            "json": self.body,
            "headers": {"Accept": self.accept},
            "timeout": httpx2.Timeout(seconds, connect=min(seconds, _CONNECT_SECONDS)),
        }

    def answer(self, response: httpx2.Response) -> T:
        """What the response says.

        Raises:
            ApiError: the service refused, or failed.
            UnexpectedAnswer: something else answered.
        """
        content = content_of(response, self.also)
        try:
            return self.read(content)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UnexpectedAnswer(
                f"{response.url}: an answer that this client does not understand ({error!r}); is "
                "that experimance-controlnet, and of this version?"
            ) from error


def generate_body(
    prompt: str,
    depth: PictureInput | None,
    image: PictureInput | None,
    fields: Mapping[str, Any],
) -> dict[str, Any]:
    """The body of /generate and /generate_stream; see Client.generate.

    It has a request id in any case, so that a second try joins what the first one began.
    """
    body: dict[str, Any] = {"prompt": prompt}
    if isinstance(depth, str) and depth == "mock":
        body["mock_depth"] = True
    elif depth is not None:
        body["depth_map_b64"] = encoded(depth, "depth")
    if image is not None:
        body["image_b64"] = encoded(image, "image")
    body |= {name: value for name, value in fields.items() if value is not None}
    loras = body.get("loras")
    if isinstance(loras, Mapping):
        body["loras"] = [{"name": name, "strength": value} for name, value in loras.items()]
    body.setdefault("request_id", uuid.uuid4().hex)
    return body


def generate(body: dict[str, Any]) -> Call[Picture]:
    """POST /generate; `body` as generate_body makes it."""
    return Call("/generate", body, picture_of)


def generate_stream(body: dict[str, Any]) -> Call[Picture]:
    """POST /generate_stream; its answer is events."""
    return Call("/generate_stream", body, picture_of, accept="text/event-stream")


def estimate_depth(photo: PictureInput, fields: Mapping[str, Any]) -> Call[DepthMap]:
    """POST /estimate_depth."""
    given = {name: value for name, value in fields.items() if value is not None}
    return Call("/estimate_depth", {"image_b64": encoded(photo, "photo"), **given}, depth_map_of)


def health() -> Call[Health]:
    """GET /healthcheck. It is asked once: the question is how things are now."""
    return Call("/healthcheck", None, Health.of, again=False, also=frozenset({503}))


def models() -> Call[ModelsInfo]:
    """GET /models."""
    return Call("/models", None, ModelsInfo.of)


def load(route: str, model: str | None, controlnet: str | None) -> Call[Loaded]:
    """POST /preload or /unload."""
    named = {"model": model, "controlnet": controlnet}
    body = {name: value for name, value in named.items() if value is not None}
    return Call(route, body, Loaded.of)


def cancel(request_id: str | None, session: str | None, everything: bool) -> Call[tuple[str, ...]]:
    """POST /cancel."""
    named = {"request_id": request_id, "session": session, "all": everything or None}
    body = {name: value for name, value in named.items() if value is not None}
    return Call("/cancel", body, lambda answer: tuple(answer["cancelled"]))
