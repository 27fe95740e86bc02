"""Exception hierarchy of this package.

ExperimanceError
├── InvalidInput            a depth map, image or URL that cannot be sent (also a ValueError)
├── ConnectionFailed        the service is unreachable, or closed the connection
│   └── StreamEnded         an event stream stopped before its image
├── TimedOut                the call exceeded its timeout (also a TimeoutError)
├── UnexpectedAnswer        a response outside the service's contract
└── ApiError                an error response of the service, by status and code
    ├── InvalidRequest      400  invalid_request
    │   ├── InvalidPicture  400  invalid_depth_map, invalid_image
    │   └── UnknownName     400  unknown_model, unknown_controlnet, unknown_era, unknown_lora, …
    ├── Unauthorized        401  unauthorized
    ├── NotFound            404  not_found
    ├── Conflict            409  conflict
    │   ├── Cancelled       409  cancelled
    │   └── Superseded      409  superseded
    ├── TooLarge            413  too_large
    ├── Overloaded          429  overloaded
    ├── Unavailable         503  not_ready, out_of_memory, runner_lost
    ├── DeadlineExceeded    504  deadline_exceeded
    └── Internal            500  internal
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class ExperimanceError(Exception):
    """Base class of all exceptions of this package."""


class InvalidInput(ExperimanceError, ValueError):
    """A caller's input that cannot be sent; the message lists what is accepted."""


class ConnectionFailed(ExperimanceError):
    """A service that is unreachable, or a connection that broke."""


class StreamEnded(ConnectionFailed):
    """An event stream that stopped before its image or an error event."""


class TimedOut(ExperimanceError, TimeoutError):
    """A call that exceeded its timeout; the service stops requests of closed connections."""


class UnexpectedAnswer(ExperimanceError):
    """A response outside the service's contract, such as an error page of a proxy."""


@dataclass(frozen=True)
class FieldError:
    """Validation error of one request field; the message lists what is accepted."""

    field: str
    message: str


class ApiError(ExperimanceError):
    """An error response of the service.

    Attributes:
        status: HTTP status.
        code: Error code of the contract, such as `invalid_request`.
        message: Human-readable description.
        detail: Validation errors by field.
        request_id: Id of the request in the service's log.
        retry_after: Seconds to wait before a retry; None without a Retry-After header.
    """

    status = 500

    def __init__(
        self,
        message: str,
        *,
        code: str,
        status: int | None = None,
        detail: Sequence[FieldError] = (),
        request_id: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.status = status or type(self).status
        self.detail = tuple(detail)
        self.request_id = request_id
        self.retry_after = retry_after


class InvalidRequest(ApiError):
    """A request field with an invalid value."""

    status = 400


class InvalidPicture(InvalidRequest):
    """A depth map or photograph that cannot be decoded."""


class UnknownName(InvalidRequest):
    """A name missing from the service's catalog; the message lists the accepted names."""


class Unauthorized(ApiError):
    """A missing or wrong bearer token."""

    status = 401


class NotFound(ApiError):
    """An unknown route: an older service, or another program."""

    status = 404


class Conflict(ApiError):
    """A request that another call ended, or whose id an unequal one has."""

    status = 409


class Cancelled(Conflict):
    """A cancelled request."""


class Superseded(Conflict):
    """A request replaced by a newer one of the same session."""


class TooLarge(ApiError):
    """A body or image over its size limit."""

    status = 413


class Overloaded(ApiError):
    """A full queue."""

    status = 429


class Unavailable(ApiError):
    """A temporary failure; a later retry may succeed."""

    status = 503


class DeadlineExceeded(ApiError):
    """An image that cannot be ready before its deadline."""

    status = 504


class Internal(ApiError):
    """An internal error of the service."""


_BY_CODE: dict[str, type[ApiError]] = {
    "invalid_request": InvalidRequest,
    "invalid_depth_map": InvalidPicture,
    "invalid_image": InvalidPicture,
    "unauthorized": Unauthorized,
    "not_found": NotFound,
    "conflict": Conflict,
    "cancelled": Cancelled,
    "superseded": Superseded,
    "too_large": TooLarge,
    "overloaded": Overloaded,
    "not_ready": Unavailable,
    "out_of_memory": Unavailable,
    "runner_lost": Unavailable,
    "deadline_exceeded": DeadlineExceeded,
    "internal": Internal,
}
_BY_STATUS: dict[int, type[ApiError]] = {
    kind.status: kind
    for kind in (
        InvalidRequest, Unauthorized, NotFound, Conflict, TooLarge, Overloaded, Unavailable,
        DeadlineExceeded,
    )
}  # fmt: skip


def error_class(code: str, status: int | None) -> type[ApiError]:
    """Return the exception class of an error code, or of the status if the code is unknown.

    Error events carry no status, hence None.
    """
    if code in _BY_CODE:
        return _BY_CODE[code]
    if code.startswith("unknown_"):
        return UnknownName
    return _BY_STATUS.get(status or Internal.status, ApiError)
