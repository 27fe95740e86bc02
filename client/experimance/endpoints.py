"""Request descriptions and response parsers of every route, free of I/O."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import httpx2

from experimance.errors import UnexpectedAnswer
from experimance.image_input import PictureInput, to_base64
from experimance.response_parsing import parse_depth_map, parse_json, parse_picture
from experimance.results import DepthMap, Picture
from experimance.status import Health, Loaded, ModelsInfo

T = TypeVar("T")
_CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class Call(Generic[T]):
    """One call of the service.

    Attributes:
        route: Path below the service's URL.
        body: JSON body of a POST; None for a GET.
        read: Parser of the response's JSON object.
        retryable: Whether the call may be retried.
        extra_ok_statuses: Statuses besides 200 that carry a regular response.
        accept: Value of the Accept header.
    """

    route: str
    body: dict[str, Any] | None
    read: Callable[[dict[str, Any]], T]
    retryable: bool = True
    extra_ok_statuses: frozenset[int] = frozenset()
    accept: str = "application/json"

    def request(self, seconds: float) -> dict[str, Any]:
        """Return the arguments of an HTTP client's `request`, limited to `seconds`."""
        return {
            "method": "GET" if self.body is None else "POST",
            "url": self.route,
            "json": self.body,
            "headers": {"Accept": self.accept},
            "timeout": httpx2.Timeout(seconds, connect=min(seconds, _CONNECT_SECONDS)),
        }

    def parse(self, response: httpx2.Response) -> T:
        """Parse a response.

        Raises:
            ApiError: The service answered with an error.
            UnexpectedAnswer: The response is outside the contract.
        """
        content = parse_json(response, self.extra_ok_statuses)
        try:
            return self.read(content)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UnexpectedAnswer(
                f"{response.url}: invalid response ({error!r}); is this experimance-controlnet, "
                "and of the client's version?"
            ) from error


def generate_body(
    prompt: str,
    depth: PictureInput | None,
    image: PictureInput | None,
    fields: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the body of /generate and /generate_stream.

    The body always has a request id, so that a retry joins the first attempt's work.

    Args:
        prompt: Text that describes the image.
        depth: Depth map, near = bright, or "mock".
        image: Photograph or init image.
        fields: All other request fields; None values are left out.

    Raises:
        InvalidInput: `depth` or `image` is not an image.
        OSError: A file cannot be read.
    """
    body: dict[str, Any] = {"prompt": prompt}
    if isinstance(depth, str) and depth == "mock":
        body["mock_depth"] = True
    elif depth is not None:
        body["depth_map_b64"] = to_base64(depth, "depth")
    if image is not None:
        body["image_b64"] = to_base64(image, "image")
    body |= {name: value for name, value in fields.items() if value is not None}
    loras = body.get("loras")
    if isinstance(loras, Mapping):
        body["loras"] = [{"name": name, "strength": value} for name, value in loras.items()]
    body.setdefault("request_id", uuid.uuid4().hex)
    return body


def generate(body: dict[str, Any]) -> Call[Picture]:
    """Return the call of POST /generate; `body` comes from `generate_body`."""
    return Call("/generate", body, parse_picture)


def generate_stream(body: dict[str, Any]) -> Call[Picture]:
    """Return the call of POST /generate_stream, whose response is an event stream."""
    return Call("/generate_stream", body, parse_picture, accept="text/event-stream")


def estimate_depth(photo: PictureInput, fields: Mapping[str, Any]) -> Call[DepthMap]:
    """Return the call of POST /estimate_depth.

    Raises:
        InvalidInput: `photo` is not an image.
        OSError: The file cannot be read.
    """
    body = {name: value for name, value in fields.items() if value is not None}
    return Call(
        "/estimate_depth", {"image_b64": to_base64(photo, "photo"), **body}, parse_depth_map
    )


def health() -> Call[Health]:
    """Return the call of GET /healthcheck, which is not retried: it describes this moment."""
    return Call(
        "/healthcheck", None, Health.from_json, retryable=False, extra_ok_statuses=frozenset({503})
    )


def models() -> Call[ModelsInfo]:
    """Return the call of GET /models."""
    return Call("/models", None, ModelsInfo.from_json)


def load(route: str, model: str | None, controlnet: str | None) -> Call[Loaded]:
    """Return the call of POST /preload or /unload.

    Args:
        route: "/preload" or "/unload".
        model: Name of a variant.
        controlnet: Name of a ControlNet.
    """
    named = {"model": model, "controlnet": controlnet}
    body = {name: value for name, value in named.items() if value is not None}
    return Call(route, body, Loaded.from_json)


def cancel(request_id: str | None, session: str | None, everything: bool) -> Call[tuple[str, ...]]:
    """Return the call of POST /cancel.

    Args:
        request_id: Id of one request.
        session: Session whose requests are cancelled.
        everything: Whether to cancel all requests.
    """
    named = {"request_id": request_id, "session": session, "all": everything or None}
    body = {name: value for name, value in named.items() if value is not None}
    return Call("/cancel", body, lambda answer: tuple(answer["cancelled"]))
