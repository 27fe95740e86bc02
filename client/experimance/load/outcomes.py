"""How a request may end: exactly one ending each."""

from __future__ import annotations

from enum import IntEnum

PARTS = ("queue", "encode", "denoise", "decode", "save")
"""Of a server's `metadata.timings`, in the order in which they happen."""

TIMEOUT, CONNECTION, PROTOCOL = "timeout", "connection", "protocol"
"""What transport does to a request."""
BAD_ANSWER, BROKEN_STREAM = "bad_answer", "broken_stream"
"""An answer, or a stream, that is not what the contract promises."""
LEFT, UNSENT, INTERRUPTED = "left", "unsent", "interrupted"
OK, OVERLOADED, CANCELLED, SUPERSEDED = "ok", "overloaded", "cancelled", "superseded"
_TOO_MANY = 429


class Ending(IntEnum):
    """Groups of outcomes. Only `failed` counts as an error."""

    OK = 0
    REFUSED = 1
    """429: the server said when to come back."""
    STOPPED = 2
    """Cancelled, left or superseded because the scenario asked for it."""
    FAILED = 3
    UNSENT = 4
    """Due, but so many were under way already that the generator's bound was reached."""
    INTERRUPTED = 5
    """Still under way when the run was broken off."""

    @property
    def label(self) -> str:
        """As reports have it."""
        return self.name.lower()


def ending_of(code: str, status: int, *, cancels: bool, has_session: bool) -> Ending:
    """The group of an outcome.

    Args:
        code: `ok`, a code of the wire contract, or one of this module's.
        status: of HTTP; 0 if there was no answer.
        cancels: the scenario cancels such requests.
        has_session: a later request of its session may supersede it.
    """
    if code == OK:
        return Ending.OK
    if status == _TOO_MANY or code == OVERLOADED:
        return Ending.REFUSED
    if code == UNSENT:
        return Ending.UNSENT
    if code == INTERRUPTED:
        return Ending.INTERRUPTED
    wanted = code == LEFT or (code == CANCELLED and cancels) or (code == SUPERSEDED and has_session)
    return Ending.STOPPED if wanted else Ending.FAILED
