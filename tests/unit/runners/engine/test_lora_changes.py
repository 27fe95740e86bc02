"""Changes of merged LoRAs: once per request at most, and counted in the backlog."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.protocol import LoraWeight
from runners.networks.lora.working_copy import WorkingCopy
from testing.weight_files.random_loras import lora_file
from testing.workbench import Listener, demo_networks, make_engine
from tests.support.runner.jobs import TickingClock, await_end, finish, job, pictures

SETS = [(LoraWeight("drone", 0.8),), (LoraWeight("drone", 0.3), LoraWeight("experimance", 0.6))]


@pytest.fixture
def merges(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []
    before: Callable[..., None] = WorkingCopy.merge

    def watched(copy: WorkingCopy, unet: Any, key: Any, *arguments: Any) -> None:
        found.append(key)
        before(copy, unet, key, *arguments)

    monkeypatch.setattr(WorkingCopy, "merge", watched)
    return found


def test_sets_do_not_take_turns_step_by_step(merges: list[Any]) -> None:
    engine = make_engine()
    listeners = [Listener() for _ in range(6)]
    for number, listener in enumerate(listeners):
        engine.submit(job(str(number), loras=SETS[number % 2], steps=4), listener)
    finish(engine)
    assert all(pictures(listener) for listener in listeners)
    # Requests of one set are batched where they meet, so there are fewer changes than requests.
    assert 2 <= len(merges) <= len(listeners)


def test_equal_sets_in_a_row_are_merged_once(merges: list[Any]) -> None:
    engine = make_engine(max_batch_rows=1)
    for number in range(3):
        engine.submit(job(str(number), loras=SETS[0], steps=2), Listener())
    finish(engine)
    assert len(merges) <= 1


def test_another_file_under_the_same_name_is_used_at_once(tmp_path: Path) -> None:
    variant, _ = demo_networks("base")
    engine = make_engine()
    found = []
    for number, (name, seed) in enumerate((("era", 1), ("era", 2), ("other", 2))):
        if name in variant.loras.names:
            variant.loras.remove(name)
        file = lora_file(tmp_path / f"{number}.safetensors", variant.unet, "kohya", seed, rank=4)
        variant.loras.add(name, file)
        listener = Listener()
        engine.submit(job(str(number), loras=(LoraWeight(name, 1.0),)), listener)
        while engine.tick():
            pass
        await_end(listener)
        found.append(pictures(listener)[0].astype(int))
    engine.close()
    for name in ("era", "other"):
        variant.loras.remove(name)
    assert np.abs(found[0] - found[1]).max() > 1
    assert np.abs(found[1] - found[2]).max() <= 1


def test_the_backlog_has_the_cost_of_a_change() -> None:
    engine = make_engine(clock=TickingClock())
    assert engine.cost.merge_seconds("base") == 0
    for number, loras in enumerate(SETS):
        listener = Listener()
        engine.submit(job(f"first-{number}", loras=loras, steps=1), listener)
        while engine.tick():
            pass
        await_end(listener)
    cost = engine.cost.merge_seconds("base")
    assert cost > 0
    backlog = []
    for number, loras in enumerate(((), SETS[0])):
        listener = Listener()
        engine.submit(job(f"next-{number}", loras=loras, steps=1), listener)
        backlog.append(engine.load()[2])
        while engine.tick():
            pass
        await_end(listener)
    assert backlog[1] - backlog[0] == pytest.approx(cost)
    finish(engine)
