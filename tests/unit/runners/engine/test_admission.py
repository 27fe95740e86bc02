"""Admission of requests that end while it prepares them, or those before them."""

from __future__ import annotations

from typing import Any

import pytest

from common.protocol import CancelCommand, GenerateJob
from runners.diffusion.conditioning import Conditioning, ConditioningBuilder
from runners.engine.engine import Engine
from testing.workbench import Listener
from tests.support.runner.jobs import failure, finish, job, pictures


@pytest.mark.parametrize("left", ["first", "second"])
def test_request_cancelled_during_admission_never_runs(
    engine: Engine, batches: list[list[str]], monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    """Cancelling comes from another thread, while the device thread prepares the first one."""
    build = ConditioningBuilder.build

    def build_while_cancelled(
        self: ConditioningBuilder, job: GenerateJob, *networks: Any
    ) -> Conditioning:
        if job.request_id == "first":
            assert engine.cancel(CancelCommand(request_id=left)) == (left,)
        return build(self, job, *networks)

    monkeypatch.setattr(ConditioningBuilder, "build", build_while_cancelled)
    listeners = {name: Listener() for name in ("first", "second")}
    for name, listener in listeners.items():
        engine.submit(job(name, steps=3), listener)
    finish(engine)
    (other,) = listeners.keys() - {left}
    assert failure(listeners[left]) == "cancelled"
    assert pictures(listeners[other])
    assert batches == [[other]] * 3
