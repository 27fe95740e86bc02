"""Every error of this package, one tree.

ExperimanceError
├── InvalidInput            a depth map, picture or address that cannot be sent (also a ValueError)
├── ConnectionFailed        the service was not reached, or hung up
│   └── StreamEnded         a stream of events stopped before its picture
├── TimedOut                the call's seconds are over (also a TimeoutError)
├── UnexpectedAnswer        what answered does not speak the service's contract
└── ApiError                the service's own errors, by status and code
    ├── InvalidRequest      400  invalid_request
    │   ├── InvalidPicture  400  invalid_depth_map, invalid_image
    │   └── UnknownName     400  unknown_model, unknown_controlnet, unknown_era, unknown_lora, …
    ├── Unauthorized        401  unauthorized
    ├── NotFound            404  not_found
    ├── Conflict            409
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
    """Anything that this package raises on purpose."""


class InvalidInput(ExperimanceError, ValueError):
    """Something of the caller's cannot be sent; the message says what is accepted."""


class ConnectionFailed(ExperimanceError):
    """The service was not reached, or the connection broke."""


class StreamEnded(ConnectionFailed):
    """The stream stopped before the picture or an error came."""


class TimedOut(ExperimanceError, TimeoutError):
    """The call took longer than its timeout; the service stops the work of who hangs up."""


class UnexpectedAnswer(ExperimanceError):
    """An answer that is not the service's, such as a proxy's page."""


@dataclass(frozen=True)
class FieldProblem:
    """What is wrong with one field, and what it accepts."""

    field: str
    message: str


class ApiError(ExperimanceError):
    """An error that the service answered.

    Attributes:
        status: the HTTP status.
        code: the contract's word for it, such as `invalid_request`.
        message: for people.
        detail: what is wrong, by field.
        request_id: under which the service's log has it.
        retry_after: seconds after which another try makes sense, None where the service said none.
    """

    status = 500

    def __init__(
        self,
        message: str,
        *,
        code: str,
        status: int | None = None,
        detail: Sequence[FieldProblem] = (),
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
    """A field's value is not accepted."""

    status = 400


class InvalidPicture(InvalidRequest):
    """The depth map or photograph cannot be decoded."""


class UnknownName(InvalidRequest):
    """A name that the service's catalog does not have; the message lists what exists."""


class Unauthorized(ApiError):
    """The service asks for a token."""

    status = 401


class NotFound(ApiError):
    """No such route: an older service, or another program."""

    status = 404


class Conflict(ApiError):
    """Another call ended this one."""

    status = 409


class Cancelled(Conflict):
    """Someone cancelled it."""


class Superseded(Conflict):
    """A newer request of the same session took its place."""


class TooLarge(ApiError):
    """The body or a picture exceeds its limit."""

    status = 413


class Overloaded(ApiError):
    """Too many requests wait."""

    status = 429


class Unavailable(ApiError):
    """Not now; later perhaps."""

    status = 503


class DeadlineExceeded(ApiError):
    """The picture cannot be ready in time."""

    status = 504


class Internal(ApiError):
    """A fault of the service."""


_BY_CODE: dict[str, type[ApiError]] = {
    "invalid_request": InvalidRequest,
    "invalid_depth_map": InvalidPicture,
    "invalid_image": InvalidPicture,
    "unauthorized": Unauthorized,
    "not_found": NotFound,
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


def kind_of(code: str, status: int | None) -> type[ApiError]:
    """The class for a code of the contract; for one not known here, by its status.

    Events have no status of their own, hence None.
    """
    if code in _BY_CODE:
        return _BY_CODE[code]
    if code.startswith("unknown_"):
        return UnknownName
    return _BY_STATUS.get(status or Internal.status, ApiError)
