"""Configuration of structured logs; every line of a request has its id, in both processes."""

from __future__ import annotations

import contextlib
import logging
import sys

import structlog
from pydantic import ValidationError
from structlog.types import EventDict, Processor, WrappedLogger

from common.log_text import GuardedStream, escape_event, escape_records
from common.settings import Settings

# Loggers to which BentoML attaches separate handlers.
_FOREIGN_LOGGERS = ("", "bentoml", "uvicorn.error", "circus")


def configure_logs(settings: Settings, process: str) -> None:
    """Configure logging for this process, as text or JSON lines.

    Args:
        settings: level and format.
        process: `api` or `runner`, a field of every line.
    """

    def name_process(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        return {"process": process, **event}

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        name_process,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        escape_event,
    ]
    as_json = settings.log_format == "json"
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=False)
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[settings.log_level]
        ),
        logger_factory=lambda *_: _AtomicLineLogger(),
        cache_logger_on_first_use=True,
    )
    escape_records(ValidationError)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, GuardedStream):
            setattr(sys, name, GuardedStream(stream))
    for handler in logging.getLogger("bentoml").handlers:
        handler.addFilter(_is_no_validation_error)
    if as_json:
        _format_library_loggers([*shared, renderer])


def _is_no_validation_error(record: logging.LogRecord) -> bool:
    """Return False for validation errors, which BentoML logs as faults with the input."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or not issubclass(kind, ValidationError)


class _AtomicLineLogger(structlog.WriteLogger):
    """Logger with one write per line, because both processes share a stream.

    A failed write drops the line, because a full disk must not end a request.
    """

    def msg(self, message: str) -> None:
        """Write a line; ignore a failed write."""
        with contextlib.suppress(OSError):
            super().msg(message)

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


def _format_library_loggers(processors: list[Processor]) -> None:
    """Format records of the standard library's logging as JSON lines."""
    final = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, *processors[:-1]],
        processors=[final, processors[-1]],
    )
    for name in _FOREIGN_LOGGERS:
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(formatter)
