"""Errors of the wire contract.

ApiError
├── InvalidRequest          400  invalid_request
│   ├── InvalidDepthMap     400  invalid_depth_map
│   ├── InvalidImage        400  invalid_image
│   └── UnknownName         400  unknown_model, unknown_controlnet, unknown_era, unknown_lora,
│                                unknown_depth_estimator
├── Unauthorized            401  unauthorized
├── NotFound                404  not_found
├── MethodNotAllowed        405  method_not_allowed
├── Conflict                409  superseded, cancelled, conflict
├── TooLarge                413  too_large
├── UnsupportedMediaType    415  unsupported_media_type
├── Overloaded              429  overloaded
├── Unavailable             503  not_ready, out_of_memory, runner_lost
├── DeadlineExceeded        504  deadline_exceeded
└── Internal                500  internal
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.responses import JSONResponse

from api.schemas.responses import ErrorBody, ErrorDetail
from common.protocol import JobFailed


@dataclass(frozen=True, slots=True)
class FieldError:
    """Problem with one field and the values that the field accepts."""

    field: str
    message: str


class ApiError(Exception):
    """Error response of the API: HTTP status, error code and message.

    Args:
        message: description for people.
        code: error code of the contract; None selects the code of the class.
        detail: problems by field.
        retry_after: seconds for the Retry-After header; None omits the header.
    """

    status = 500
    code = "internal"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        detail: Sequence[FieldError] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.detail = tuple(detail)
        self.retry_after = retry_after

    def response(self, request_id: str) -> JSONResponse:
        """Return the error body of the contract, with its headers."""
        body = ErrorBody(
            error=self.code,
            error_message=self.message,
            detail=[ErrorDetail(field=p.field, message=p.message) for p in self.detail],
            request_id=request_id,
        )
        headers = {"X-Request-Id": request_id}
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        return JSONResponse(body.model_dump(), self.status, headers)


_MAX_PROBLEMS = 20


class InvalidRequest(ApiError):
    """A field's value is not accepted."""

    status, code = 400, "invalid_request"

    @classmethod
    def from_problems(cls, problems: Sequence[FieldError]) -> InvalidRequest:
        """Return one error for all problems of a request; its message lists at most 20."""
        listed = problems[:_MAX_PROBLEMS]
        parts = [f"{p.field}: {p.message}" if p.field else p.message for p in listed]
        if len(problems) > len(listed):
            parts.append(f"and {len(problems) - len(listed)} more")
        return cls("; ".join(parts), detail=listed)

    @classmethod
    def for_field(cls, name: str, message: str, code: str | None = None) -> InvalidRequest:
        """Return the error for one field.

        Args:
            name: name of the field.
            message: the problem and the accepted values.
            code: error code of the contract; None selects the code of the class.
        """
        return cls(f"{name}: {message}", code=code, detail=[FieldError(name, message)])


class InvalidDepthMap(InvalidRequest):
    """The depth map cannot be decoded."""

    code = "invalid_depth_map"


class InvalidImage(InvalidRequest):
    """The photograph cannot be decoded."""

    code = "invalid_image"


class UnknownName(InvalidRequest):
    """The catalog or the store lacks the name; the message lists the available names."""


class Unauthorized(ApiError):
    """The request lacks a valid bearer token."""

    status, code = 401, "unauthorized"


class NotFound(ApiError):
    """The route does not exist."""

    status, code = 404, "not_found"


class MethodNotAllowed(ApiError):
    """The route does not accept the HTTP method."""

    status, code = 405, "method_not_allowed"


class Conflict(ApiError):
    """The request was cancelled or superseded, or its id belongs to another request."""

    status, code = 409, "cancelled"


class TooLarge(ApiError):
    """The body or an image exceeds its limit."""

    status, code = 413, "too_large"


class UnsupportedMediaType(ApiError):
    """The body is neither JSON nor multipart."""

    status, code = 415, "unsupported_media_type"


class Overloaded(ApiError):
    """Too many requests are waiting."""

    status, code = 429, "overloaded"


class Unavailable(ApiError):
    """The service cannot process the request now; a retry may succeed."""

    status, code = 503, "not_ready"


class DeadlineExceeded(ApiError):
    """The image cannot be ready before the deadline."""

    status, code = 504, "deadline_exceeded"


class Internal(ApiError):
    """The service has a fault; the log records it under the request id."""

    def __init__(self) -> None:
        super().__init__("internal error; the log records it under this request id")


_BY_STATUS: dict[int, type[ApiError]] = {
    kind.status: kind
    for kind in (
        InvalidRequest, Unauthorized, NotFound, MethodNotAllowed, Conflict, TooLarge,
        UnsupportedMediaType, Overloaded, Unavailable, DeadlineExceeded,
    )
}  # fmt: skip

CODES_BY_STATUS: dict[int, tuple[str, ...]] = {
    400: (
        "invalid_request",
        "invalid_depth_map",
        "invalid_image",
        "unknown_model",
        "unknown_controlnet",
        "unknown_era",
        "unknown_lora",
        "unknown_depth_estimator",
    ),
    401: ("unauthorized",),
    404: ("not_found",),
    405: ("method_not_allowed",),
    409: ("cancelled", "superseded", "conflict"),
    413: ("too_large",),
    415: ("unsupported_media_type",),
    429: ("overloaded",),
    500: ("internal",),
    503: ("not_ready", "out_of_memory", "runner_lost"),
    504: ("deadline_exceeded",),
}
"""Error codes of the contract, by HTTP status."""

_MESSAGES = {
    401: "a bearer token is needed in the Authorization header",
    404: "the route does not exist",
    405: "this route does not accept the method",
    413: "the request is too large",
    415: "the body must be application/json or multipart/form-data",
    503: "the service is not ready",
    504: "the request took too long",
}

_FAILURES: dict[str, type[ApiError]] = {
    "invalid_request": InvalidRequest,
    "cancelled": Conflict,
    "superseded": Conflict,
    "conflict": Conflict,
    "overloaded": Overloaded,
    "not_ready": Unavailable,
    "out_of_memory": Unavailable,
    "runner_lost": Unavailable,
    "deadline_exceeded": DeadlineExceeded,
}


def from_status(status: int) -> ApiError:
    """Return the error for an HTTP status without an error body."""
    kind = _BY_STATUS.get(status)
    if kind is None:
        return Internal() if status >= 500 else InvalidRequest("the request is not valid")
    return kind(_MESSAGES.get(status, "the request is not valid"))


def from_failure(failure: JobFailed) -> ApiError:
    """Return the API error for a job that failed in the runner."""
    kind = _FAILURES.get(failure.error)
    if kind is None:
        return Internal()
    return kind(failure.message, code=failure.error, retry_after=failure.retry_after)
