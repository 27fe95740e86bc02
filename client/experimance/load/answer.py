"""What a server answered to one request."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

from experimance.load.outcomes import BAD_ANSWER, OK, PARTS

NO_TIMINGS = (math.nan,) * len(PARTS)
_LONGEST_WAIT = 300.0


@dataclass(frozen=True, slots=True)
class Answer:
    """How a request ended: `ok`, a code of the contract, or what transport did to it.

    Attributes:
        code: see `outcomes`.
        status: of HTTP, 0 without one.
        timings: seconds by the server, in the order of `PARTS`.
        first: when the first step of a stream was told of, on the sender's clock.
        retry_after: seconds after which the server wants to be asked again.
        message: for people, if it is no success.
    """

    code: str
    status: int = 0
    timings: tuple[float, ...] = NO_TIMINGS
    first: float = math.nan
    retry_after: float | None = None
    message: str = ""


def read_answer(response: httpx2.Response, content: bytes) -> Answer:
    """Of an HTTP response that has arrived whole."""
    is_json = response.headers.get("content-type", "").startswith("application/json")
    if response.status_code == httpx2.codes.OK and not is_json:
        return _picture(response, content)
    try:
        document = json.loads(content) if is_json else None
    except ValueError:
        document = None
    if response.status_code == httpx2.codes.OK:
        return success_of(document)
    return failure_of(document, response.status_code, response.headers.get("retry-after"))


def success_of(document: Any) -> Answer:
    """Of the JSON that comes with a picture."""
    if not isinstance(document, Mapping) or not document.get("image_b64"):
        return Answer(BAD_ANSWER, 200, message="200 without image_b64")
    metadata = document.get("metadata")
    timings = metadata.get("timings") if isinstance(metadata, Mapping) else None
    return Answer(OK, 200, timings=_timings(timings))


def failure_of(document: Any, status: int, retry_after: str | None = None) -> Answer:
    """Of the contract's error body, or of what came in its place."""
    seconds = None
    if retry_after is not None and retry_after.isdigit():
        seconds = min(float(retry_after), _LONGEST_WAIT)
    if isinstance(document, Mapping) and isinstance(document.get("error"), str):
        message = str(document.get("error_message") or "")
        return Answer(document["error"], status, retry_after=seconds, message=message)
    return Answer(f"http_{status}", status, retry_after=seconds, message="not the contract's body")


def _picture(response: httpx2.Response, content: bytes) -> Answer:
    kind = response.headers.get("content-type", "no type")
    if not kind.startswith("image/") or not content:
        return Answer(BAD_ANSWER, 200, message=f"200 with {len(content)} bytes of {kind}")
    try:
        timings = json.loads(response.headers.get("x-timings", "null"))
    except ValueError:
        timings = None
    return Answer(OK, 200, timings=_timings(timings))


def _timings(document: Any) -> tuple[float, ...]:
    if not isinstance(document, Mapping):
        return NO_TIMINGS
    values = (document.get(part) for part in PARTS)
    return tuple(float(v) if isinstance(v, int | float) else math.nan for v in values)
