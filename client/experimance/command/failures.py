"""What went wrong, said in a line or two, with what to do about it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import typer

from experimance.command.console import people
from experimance.errors import (
    ApiError,
    ConnectionFailed,
    ExperimanceError,
    InvalidInput,
    NotFound,
    Overloaded,
    TimedOut,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
)

FAILED = 1


class CommandFailed(Exception):
    """Something foreseeable; the message is for people, the hint too."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Foreseeable errors as two lines on stderr and exit status 1."""
    try:
        yield
    except (ExperimanceError, CommandFailed, OSError) as error:
        if isinstance(error, BrokenPipeError):
            # Who read the output has left.
            raise
        say(error)
        raise typer.Exit(FAILED) from None


def say(error: ExperimanceError | CommandFailed | OSError) -> None:
    """Print an error and its hint."""
    message, hint = explained(error)
    people.print("error:", message, style="bold red", markup=False, soft_wrap=True)
    if hint:
        people.print("hint:", hint, style="dim", markup=False, soft_wrap=True)


def explained(error: ExperimanceError | CommandFailed | OSError) -> tuple[str, str]:
    """The message and a hint, which may be empty."""
    message = _message(error)
    match error:
        case CommandFailed():
            hint = error.hint
        case Unauthorized():
            hint = "give --token, or set API_TOKEN"
        case NotFound():
            hint = "is --url right, and the service of this version?"
        case UnexpectedAnswer():
            hint = "is --url right? The service answers GET /healthcheck"
        case ConnectionFailed():
            hint = "start it with `make serve`, or say where it is: --url or MODEL_SERVER_URL"
        case TimedOut():
            hint = "--timeout gives it longer; `experimance health` tells how long its queue is"
        case Overloaded():
            hint = "try again later, or with more --retries"
        case Unavailable():
            hint = "`experimance health` tells how it is"
        case _:
            hint = ""
    return message, hint


def _message(error: ExperimanceError | CommandFailed | OSError) -> str:
    match error:
        case ConnectionFailed():
            return f"the service is not reachable at {error}"
        case ApiError():
            told_as = f" (request {error.request_id})" if error.status >= 500 else ""
            return f"{error.message}{told_as}"
        case InvalidInput() | CommandFailed():
            return str(error)
        case OSError() if error.strerror and error.filename is not None:
            return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__
