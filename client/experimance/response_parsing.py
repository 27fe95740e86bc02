"""Parsers of the service's responses, events and errors."""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
from collections.abc import Collection, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from experimance.errors import (
    ApiError,
    ConnectionFailed,
    ExperimanceError,
    FieldError,
    InvalidInput,
    StreamEnded,
    TimedOut,
    UnexpectedAnswer,
    error_class,
)
from experimance.events import Done, Event, Queued, Started, Step
from experimance.results import DepthMap, Picture

LARGEST_EVENT = 256 * 2**20
"""Limit of one event in bytes; four PNGs of the largest size in base64 are smaller."""

_EVENT_NAMES = frozenset({"queued", "started", "step", "done", "error"})


def parse_picture(answer: Mapping[str, Any]) -> Picture:
    """Parse the response of /generate."""
    depth = answer.get("depth_map_b64")
    return Picture(
        files=tuple(_decode(text) for text in answer["images_b64"]),
        seed=answer["seed_used"],
        model=answer["model_used"],
        request_id=answer["request_id"],
        seconds=answer["generation_time"],
        metadata=answer["metadata"],
        depth_file=None if depth is None else _decode(depth),
    )


def parse_depth_map(answer: Mapping[str, Any]) -> DepthMap:
    """Parse the response of /estimate_depth."""
    return DepthMap(
        data=_decode(answer["depth_map_b64"]),
        estimator=answer["depth_estimator"],
        request_id=answer["request_id"],
        seconds=answer["seconds"],
        warnings=tuple(answer.get("warnings", ())),
    )


def parse_event(name: str, content: Mapping[str, Any]) -> Event | None:
    """Return one event of a stream, or None for an unknown event type.

    Raises:
        ApiError: The event is an `error` event.
        KeyError: A field is missing.
        TypeError: A field has the wrong type.
        ValueError: A field has an invalid value.
    """
    match name:
        case "queued":
            return Queued(content["position"])
        case "started":
            return Started()
        case "step":
            preview = content.get("preview_b64")
            preview_file = None if preview is None else _decode(preview)
            return Step(content["step"], content["steps"], preview_file)
        case "done":
            return Done(parse_picture(content))
        case "error":
            raise parse_error(content)
    return None


class EventReader:
    """Parser of one event stream that detects a premature end."""

    def __init__(self, response: httpx2.Response) -> None:
        self._url = str(response.url)
        self._ended = False

    def parse(self, message: httpx2.ServerSentEvent) -> Event | None:
        """Return the event of a message, or None for an unknown event type.

        Raises:
            ApiError: The event is an `error` event.
            UnexpectedAnswer: The data of a known event type is invalid.
        """
        if message.event not in _EVENT_NAMES:
            # Events of a newer service may carry any data, and may follow the `done` event.
            return None
        try:
            event = parse_event(message.event, json.loads(message.data))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UnexpectedAnswer(f"{self._url}: invalid `{message.event}` event") from error
        self._ended = isinstance(event, Done)
        return event

    def close(self) -> None:
        """Check that the stream ended with its `done` event.

        Raises:
            StreamEnded: The stream ended early.
        """
        if not self._ended:
            raise StreamEnded(f"{self._url}: the stream ended before its image arrived")


def parse_json(response: httpx2.Response, also: Collection[int] = ()) -> dict[str, Any]:
    """Return the JSON object of a successful response.

    Args:
        response: Response whose body has been read.
        also: Statuses besides 200 that carry a regular response, unless the body is an error.

    Raises:
        ApiError: The service answered with an error.
        UnexpectedAnswer: The response is outside the contract.
    """
    try:
        content = response.json()
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise unexpected_response(response)
    if response.status_code == 200 or (response.status_code in also and "error" not in content):
        return content
    if not isinstance(content.get("error"), str) or "error_message" not in content:
        raise unexpected_response(response)
    retry_after = _seconds_from_now(response.headers.get("retry-after"))
    raise parse_error(content, response.status_code, retry_after)


def parse_error(
    content: Mapping[str, Any], status: int | None = None, retry_after: float | None = None
) -> ApiError:
    """Return the exception that an error body describes.

    Args:
        content: JSON object of a response or an `error` event.
        status: HTTP status; None for an event.
        retry_after: Seconds to wait before a retry; None if unknown.

    Raises:
        KeyError: A field is missing.
    """
    code = str(content["error"])
    return error_class(code, status)(
        str(content["error_message"]),
        code=code,
        status=status,
        detail=[
            FieldError(str(item.get("field", "")), str(item.get("message", "")))
            for item in content.get("detail") or ()
        ],
        request_id=str(content.get("request_id", "")),
        retry_after=retry_after,
    )


@contextlib.contextmanager
def translate_http_errors(url: object, *, streaming: bool = False) -> Iterator[None]:
    """Translate exceptions of httpx2 into exceptions of this package.

    Args:
        url: URL of the service, for messages.
        streaming: Whether the response is an event stream.

    Raises:
        TimedOut: No data arrived in time.
        InvalidInput: The URL or request is invalid.
        UnexpectedAnswer: The response cannot be decoded.
        StreamEnded: The event stream broke off.
        ConnectionFailed: Any other transport error.
    """
    try:
        yield
    except (httpx2.ReadTimeout, httpx2.WriteTimeout) as error:
        raise TimedOut(f"{url}: no answer in time") from error
    except (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError, httpx2.InvalidURL) as error:
        raise InvalidInput(f"{url}: {error}") from error
    except httpx2.SSEError as error:
        raise UnexpectedAnswer(f"{url}: {error}") from error
    except httpx2.TransportError as error:
        reason = str(error) or type(error).__name__
        is_broken_stream = streaming and isinstance(
            error, httpx2.ReadError | httpx2.RemoteProtocolError
        )
        raise (StreamEnded if is_broken_stream else ConnectionFailed)(f"{url}: {reason}") from error
    except httpx2.DecodingError as error:
        raise UnexpectedAnswer(f"{url}: {error}") from error


def unexpected_response(response: httpx2.Response) -> ExperimanceError:
    """Return the exception for a response outside the contract, by its status if possible."""
    status = response.status_code
    summary = f"{response.url}: HTTP {status} {response.reason_phrase}".rstrip()
    if "location" in response.headers:
        summary += f" to {response.headers['location']}"
    kind = error_class("", status)
    if status == 200 or kind is ApiError:
        return UnexpectedAnswer(f"{summary}; this is not a response of experimance-controlnet")
    # Proxies in front of the service send 429 and 503 with their own bodies.
    retry_after = _seconds_from_now(response.headers.get("retry-after"))
    return kind(summary, code="", status=status, retry_after=retry_after)


def _seconds_from_now(header: str | None) -> float | None:
    """Convert a Retry-After header, in seconds or a date, to seconds from now."""
    if header is None:
        return None
    try:
        return max(0.0, float(int(header)))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(header)
    except ValueError:
        return None
    now = datetime.datetime.now(date.tzinfo)
    return max(0.0, (date - now).total_seconds())


def _decode(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
