"""What the service sends back, read: pictures, events, and errors."""

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
    FieldProblem,
    InvalidInput,
    StreamEnded,
    TimedOut,
    UnexpectedAnswer,
    kind_of,
)
from experimance.events import Done, Event, Queued, Started, Step
from experimance.picture import DepthMap, Picture

LARGEST_EVENT = 256 * 2**20
"""Four pictures of the largest size as PNG, and their base64, are less."""


def picture_of(answer: Mapping[str, Any]) -> Picture:
    """The answer of /generate."""
    depth = answer.get("depth_map_b64")
    return Picture(
        files=tuple(_decoded(text) for text in answer["images_b64"]),
        seed=answer["seed_used"],
        model=answer["model_used"],
        request_id=answer["request_id"],
        seconds=answer["generation_time"],
        metadata=answer["metadata"],
        depth_file=None if depth is None else _decoded(depth),
    )


def depth_map_of(answer: Mapping[str, Any]) -> DepthMap:
    """The answer of /estimate_depth."""
    return DepthMap(
        data=_decoded(answer["depth_map_b64"]),
        estimator=answer["depth_estimator"],
        request_id=answer["request_id"],
        seconds=answer["seconds"],
        warnings=tuple(answer.get("warnings", ())),
    )


def event_of(name: str, content: Mapping[str, Any]) -> Event | None:
    """One event of a stream; None for a kind that this version does not know.

    Raises:
        ApiError: the service's `error` event.
        KeyError, TypeError, ValueError: it is not as the contract has it.
    """
    match name:
        case "queued":
            return Queued(content["position"])
        case "started":
            return Started()
        case "step":
            preview = content.get("preview_b64")
            shown = None if preview is None else _decoded(preview)
            return Step(content["step"], content["steps"], shown)
        case "done":
            return Done(picture_of(content))
        case "error":
            raise error_of(content)
    return None


class Listener:
    """Reads a stream's events, and knows whether it came to its end."""

    def __init__(self, response: httpx2.Response) -> None:
        self._url = str(response.url)
        self._ended = False

    def heard(self, sent: httpx2.ServerSentEvent) -> Event | None:
        """The event that was sent; raises as `event_of`, and UnexpectedAnswer."""
        try:
            event = event_of(sent.event, json.loads(sent.data))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UnexpectedAnswer(f"{self._url}: an event that is not understood") from error
        self._ended = isinstance(event, Done)
        return event

    def close(self) -> None:
        """The stream is over; raises StreamEnded where it should not be."""
        if not self._ended:
            raise StreamEnded(f"{self._url}: the stream ended before its picture came")


def content_of(response: httpx2.Response, also: Collection[int] = ()) -> dict[str, Any]:
    """The JSON object of a good answer; raises what any other says.

    Args:
        response: read to its end.
        also: statuses beside 200 that bring an answer where the body is no error's.
    """
    try:
        content = response.json()
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise _foreign(response)
    if response.status_code == 200 or (response.status_code in also and "error" not in content):
        return content
    if not isinstance(content.get("error"), str) or "error_message" not in content:
        raise _foreign(response)
    later = _seconds(response.headers.get("retry-after"))
    raise error_of(content, response.status_code, later)


def error_of(
    content: Mapping[str, Any], status: int | None = None, retry_after: float | None = None
) -> ApiError:
    """The error that a body describes; `status` None where it came as an event."""
    code = str(content["error"])
    return kind_of(code, status)(
        str(content["error_message"]),
        code=code,
        status=status,
        detail=[
            FieldProblem(str(item.get("field", "")), str(item.get("message", "")))
            for item in content.get("detail") or ()
        ],
        request_id=str(content.get("request_id", "")),
        retry_after=retry_after,
    )


@contextlib.contextmanager
def told(url: object, *, streaming: bool = False) -> Iterator[None]:
    """The HTTP library's errors as this package's.

    Args:
        url: where the service should be.
        streaming: whether an answer that breaks off is a stream of events.
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
        broken = streaming and isinstance(error, httpx2.ReadError | httpx2.RemoteProtocolError)
        raise (StreamEnded if broken else ConnectionFailed)(f"{url}: {reason}") from error
    except httpx2.DecodingError as error:
        raise UnexpectedAnswer(f"{url}: {error}") from error


def _foreign(response: httpx2.Response) -> ExperimanceError:
    """An error for an answer that is not in the contract's form, by its status where that helps."""
    status = response.status_code
    said = f"{response.url}: HTTP {status} {response.reason_phrase}".rstrip()
    if "location" in response.headers:
        said += f" to {response.headers['location']}"
    kind = kind_of("", status)
    if status == 200 or kind is ApiError:
        return UnexpectedAnswer(f"{said}, and not what experimance-controlnet answers")
    # A proxy before the service says 429 or 503 in words of its own.
    later = _seconds(response.headers.get("retry-after"))
    return kind(said, code="", status=status, retry_after=later)


def _seconds(header: str | None) -> float | None:
    """Retry-After, which is seconds or a date, as seconds from now."""
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


def _decoded(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
