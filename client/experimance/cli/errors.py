"""Error messages and hints on stderr."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import typer

from experimance.cli.console import err_console
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
    """An expected failure, with a message and an optional hint for the user."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@contextlib.contextmanager
def handle_errors() -> Iterator[None]:
    """Print expected errors with a hint on stderr and exit with status 1.

    Raises:
        typer.Exit: An expected error occurred.
    """
    try:
        yield
    except (ExperimanceError, CommandFailed, OSError) as error:
        if isinstance(error, BrokenPipeError):
            # The reader of stdout is gone; typer ends the process silently.
            raise
        print_error(error)
        raise typer.Exit(FAILED) from None


def print_error(error: ExperimanceError | CommandFailed | OSError) -> None:
    """Print an error and its hint."""
    message, hint = describe_error(error)
    err_console.print("error:", message, style="bold red", markup=False, soft_wrap=True)
    if hint:
        err_console.print("hint:", hint, style="dim", markup=False, soft_wrap=True)


def describe_error(error: ExperimanceError | CommandFailed | OSError) -> tuple[str, str]:
    """Return the message and the hint, which may be empty, of an error."""
    message = _message(error)
    match error:
        case CommandFailed():
            hint = error.hint
        case Unauthorized():
            hint = "pass --token or set API_TOKEN"
        case NotFound():
            hint = "check --url and the version of the service"
        case UnexpectedAnswer():
            hint = "check --url: the service answers GET /healthcheck"
        case ConnectionFailed():
            hint = "start it with `make serve`, or set its address with --url or MODEL_SERVER_URL"
        case TimedOut():
            hint = "raise --timeout; `experimance health` shows the length of the queue"
        case Overloaded():
            hint = "try again later, or raise --retries"
        case Unavailable():
            hint = "`experimance health` shows its state"
        case _:
            hint = ""
    return message, hint


def _message(error: ExperimanceError | CommandFailed | OSError) -> str:
    match error:
        case ConnectionFailed():
            return f"the service is not reachable at {error}"
        case ApiError():
            suffix = f" (request {error.request_id})" if error.status >= 500 else ""
            return f"{error.message}{suffix}"
        case InvalidInput() | CommandFailed():
            return str(error)
        case OSError() if error.strerror and error.filename is not None:
            return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__
