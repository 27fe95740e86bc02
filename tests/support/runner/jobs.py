"""Small jobs for engines under test, and what became of them."""

from __future__ import annotations

import io
import threading
import weakref
from typing import Any

import numpy as np
from PIL import Image

from common.protocol import GenerateJob, JobDone, JobFailed
from runners.engine.engine import Engine
from testing.workbench import Listener, drain, make_engine, make_job
from tests.support.waiting import wait_until

DEPTH = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class TickingClock:
    """A clock that advances by a millisecond at every look."""

    def __init__(self) -> None:
        self.now = 100.0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        with self._lock:
            self.now += 0.001
            return self.now


def job(name: str, **changes: Any) -> GenerateJob:
    settings: dict[str, Any] = {"steps": 2, "guidance_scale": 1.0, "scheduler": "euler"}
    return make_job(DEPTH, request_id=name, **{**settings, **changes})


def finish(engine: Engine) -> None:
    drain(engine)
    engine.close()


def await_end(listener: Listener) -> None:
    """Pictures are encoded on other threads, after the last tick."""
    wait_until(lambda: isinstance(listener.events[-1], JobDone | JobFailed))


def await_freed(*references: weakref.ref[Any]) -> None:
    """Threads that encode pictures drop a request shortly after its last event."""
    wait_until(lambda: all(reference() is None for reference in references))


def pictures(listener: Listener) -> list[np.ndarray[Any, Any]]:
    done = listener.events[-1]
    assert isinstance(done, JobDone), done
    return [np.asarray(Image.open(io.BytesIO(image))) for image in done.images]


def failure(listener: Listener) -> str:
    failed = listener.events[-1]
    assert isinstance(failed, JobFailed), failed
    return failed.error


def paint(*jobs: GenerateJob) -> list[np.ndarray[Any, Any]]:
    """First picture of each job, all in one engine."""
    engine = make_engine()
    listeners = [Listener() for _ in jobs]
    for each, listener in zip(jobs, listeners, strict=True):
        engine.submit(each, listener)
    finish(engine)
    return [pictures(listener)[0] for listener in listeners]
