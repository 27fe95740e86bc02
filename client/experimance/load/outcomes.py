"""Outcome codes of requests and their groups."""

from __future__ import annotations

from enum import IntEnum

PHASES = ("queue", "encode", "denoise", "decode", "save")
"""Keys of a server's `metadata.timings`, in chronological order."""

TIMEOUT, CONNECTION, PROTOCOL = "timeout", "connection", "protocol"
"""Transport errors."""
BAD_ANSWER, BROKEN_STREAM = "bad_answer", "broken_stream"
"""Responses outside the service's contract."""
LEFT, UNSENT, INTERRUPTED = "left", "unsent", "interrupted"
OK, OVERLOADED, CANCELLED, SUPERSEDED = "ok", "overloaded", "cancelled", "superseded"
_TOO_MANY_REQUESTS = 429


class OutcomeGroup(IntEnum):
    """Groups of outcome codes; each request has exactly one. Only `FAILED` counts as an error."""

    OK = 0
    REFUSED = 1
    """HTTP 429, with or without Retry-After."""
    STOPPED = 2
    """Cancelled, left or superseded on behalf of the scenario."""
    FAILED = 3
    UNSENT = 4
    """Due while the maximum number of requests was in flight."""
    INTERRUPTED = 5
    """In flight when the run was aborted."""

    @property
    def label(self) -> str:
        """Name in reports."""
        return self.name.lower()


def classify(code: str, status: int, *, cancels: bool, has_session: bool) -> OutcomeGroup:
    """Return the group of an outcome.

    Args:
        code: `ok`, a code of the wire contract, or one of this module's.
        status: HTTP status; 0 without a response.
        cancels: Whether the scenario cancels this request.
        has_session: Whether a later request of the session may supersede this one.
    """
    if code == OK:
        return OutcomeGroup.OK
    if status == _TOO_MANY_REQUESTS or code == OVERLOADED:
        return OutcomeGroup.REFUSED
    if code == UNSENT:
        return OutcomeGroup.UNSENT
    if code == INTERRUPTED:
        return OutcomeGroup.INTERRUPTED
    intended = (
        code == LEFT or (code == CANCELLED and cancels) or (code == SUPERSEDED and has_session)
    )
    return OutcomeGroup.STOPPED if intended else OutcomeGroup.FAILED
