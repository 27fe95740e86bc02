"""Every error of the wire contract.

ApiError
├── InvalidRequest          400  invalid_request
│   ├── InvalidDepthMap     400  invalid_depth_map
│   ├── InvalidImage        400  invalid_image
│   └── UnknownName         400  unknown_model, unknown_controlnet, unknown_era, unknown_lora,
│                                unknown_depth_estimator
├── Unauthorized            401  unauthorized
├── NotFound                404  not_found
├── MethodNotAllowed        405  method_not_allowed
├── Conflict                409  superseded, cancelled
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

from api.responses import ErrorBody, ErrorDetail
from runners.messages import Failed


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """What is wrong with one field, and what it accepts."""

    field: str
    message: str


class ApiError(Exception):
    """An error that a caller is told of: status, code, and a message for people."""

    status = 500
    code = "internal"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        detail: Sequence[FieldProblem] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.detail = tuple(detail)
        self.retry_after = retry_after

    def response(self, request_id: str) -> JSONResponse:
        """The contract's error body."""
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
    def of(cls, problems: Sequence[FieldProblem]) -> InvalidRequest:
        """Return one error for the problems of a request; it tells the first ones of many."""
        told = problems[:_MAX_PROBLEMS]
        parts = [f"{p.field}: {p.message}" if p.field else p.message for p in told]
        if len(problems) > len(told):
            parts.append(f"and {len(problems) - len(told)} more")
        return cls("; ".join(parts), detail=told)

    @classmethod
    def field(cls, name: str, message: str, code: str | None = None) -> InvalidRequest:
        """One field's problem; the message says what is accepted."""
        return cls(f"{name}: {message}", code=code, detail=[FieldProblem(name, message)])


class InvalidDepthMap(InvalidRequest):
    """The depth map cannot be decoded."""

    code = "invalid_depth_map"


class InvalidImage(InvalidRequest):
    """The photograph cannot be decoded."""

    code = "invalid_image"


class UnknownName(InvalidRequest):
    """A name that the catalog, or the store, does not have; the message lists what exists."""


class Unauthorized(ApiError):
    """A token is configured, and missing or wrong in the request."""

    status, code = 401, "unauthorized"


class NotFound(ApiError):
    """No such route."""

    status, code = 404, "not_found"


class MethodNotAllowed(ApiError):
    """The route exists, with other methods."""

    status, code = 405, "method_not_allowed"


class Conflict(ApiError):
    """Another call ended this one."""

    status, code = 409, "cancelled"


class TooLarge(ApiError):
    """The body or a picture exceeds its limit."""

    status, code = 413, "too_large"


class UnsupportedMediaType(ApiError):
    """The body is neither JSON nor multipart."""

    status, code = 415, "unsupported_media_type"


class Overloaded(ApiError):
    """Too many requests wait."""

    status, code = 429, "overloaded"


class Unavailable(ApiError):
    """Not now; later perhaps."""

    status, code = 503, "not_ready"


class DeadlineExceeded(ApiError):
    """The picture cannot be ready in time."""

    status, code = 504, "deadline_exceeded"


class Internal(ApiError):
    """A fault of the service; the log has it under the request's id."""

    def __init__(self) -> None:
        super().__init__("internal error; the log has it under this request id")


_BY_STATUS: dict[int, type[ApiError]] = {
    kind.status: kind
    for kind in (
        InvalidRequest, Unauthorized, NotFound, MethodNotAllowed, Conflict, TooLarge,
        UnsupportedMediaType, Overloaded, Unavailable, DeadlineExceeded,
    )
}  # fmt: skip

STATUSES: dict[int, tuple[str, ...]] = {
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
    409: ("cancelled", "superseded"),
    413: ("too_large",),
    415: ("unsupported_media_type",),
    429: ("overloaded",),
    500: ("internal",),
    503: ("not_ready", "out_of_memory", "runner_lost"),
    504: ("deadline_exceeded",),
}
"""Every code of the contract, by HTTP status."""

_MESSAGES = {
    401: "a bearer token is needed in the Authorization header",
    404: "there is no such route",
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
    "overloaded": Overloaded,
    "not_ready": Unavailable,
    "out_of_memory": Unavailable,
    "runner_lost": Unavailable,
    "deadline_exceeded": DeadlineExceeded,
}


def from_status(status: int) -> ApiError:
    """The error for a bare HTTP status."""
    kind = _BY_STATUS.get(status)
    if kind is None:
        return Internal() if status >= 500 else InvalidRequest("the request is not valid")
    return kind(_MESSAGES.get(status, "the request is not valid"))


def from_failure(failure: Failed) -> ApiError:
    """The error for a job that the runner could not do."""
    kind = _FAILURES.get(failure.error)
    if kind is None:
        return Internal()
    return kind(failure.message, code=failure.error, retry_after=failure.retry_after)
