"""The loop: what a request is told, what it costs others, and how it ends."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import runners.engine
from benchmarks.workbench import Listener, demo_networks, make_engine, make_job
from runners.denoise import predict_noise
from runners.device import Device
from runners.engine import Engine, EngineConfig
from runners.messages import (
    CancelOrder,
    Done,
    Failed,
    LoraWeight,
    PaintJob,
    Queued,
    Started,
    Step,
)
from runners.sample import Sample
from tests.unit.test_adapters import lora_file

DEPTH = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = make_engine()
    yield made
    made.close()


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The request ids of every batch that is computed."""
    seen: list[list[str]] = []

    def spy(samples: Sequence[Sample], device: Device) -> list[torch.Tensor]:
        seen.append([sample.job.request_id for sample in samples])
        return predict_noise(samples, device)

    monkeypatch.setattr(runners.engine, "predict_noise", spy)
    return seen


def job(name: str, **changes: Any) -> PaintJob:
    settings: dict[str, Any] = {"steps": 2, "guidance_scale": 1.0, "scheduler": "euler"}
    return make_job(DEPTH, request_id=name, **{**settings, **changes})


def drain(engine: Engine) -> None:
    while engine.tick():
        pass


def finish(engine: Engine) -> None:
    drain(engine)
    engine.close()


def await_end(listener: Listener) -> None:
    """Pictures are encoded on other threads, after the last tick."""
    deadline = time.monotonic() + 20
    while not isinstance(listener.events[-1], Done | Failed):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def pictures(listener: Listener) -> list[np.ndarray[Any, Any]]:
    done = listener.events[-1]
    assert isinstance(done, Done), done
    return [np.asarray(Image.open(io.BytesIO(image))) for image in done.images]


def failure(listener: Listener) -> str:
    failed = listener.events[-1]
    assert isinstance(failed, Failed), failed
    return failed.error


def paint(*jobs: PaintJob) -> list[np.ndarray[Any, Any]]:
    """First picture of each job, all in one engine."""
    engine = make_engine()
    listeners = [Listener() for _ in jobs]
    for each, listener in zip(jobs, listeners, strict=True):
        engine.submit(each, listener)
    finish(engine)
    return [pictures(listener)[0] for listener in listeners]


def test_a_request_hears_of_every_stage(engine: Engine) -> None:
    listener = Listener()
    engine.submit(job("a", steps=3), listener)
    finish(engine)
    assert listener.events[:-1] == [Queued(0), Started(), Step(1, 3), Step(2, 3), Step(3, 3)]
    done = listener.events[-1]
    assert isinstance(done, Done)
    assert done.scheduler == "EulerDiscreteScheduler"
    assert set(done.timings) == {"queue", "encode", "denoise", "decode", "save"}
    assert done.timings["denoise"] > 0
    assert pictures(listener)[0].shape == (64, 64, 3)


def test_pictures_of_one_request_take_consecutive_seeds(engine: Engine) -> None:
    listener = Listener()
    engine.submit(job("three", seed=7, num_images=3), listener)
    finish(engine)
    together = pictures(listener)
    for index, picture in enumerate(together):
        (alone,) = paint(job("alone", seed=7 + index))
        assert np.abs(picture.astype(int) - alone).max() <= 1
    assert np.abs(together[0].astype(int) - together[1]).max() > 1


def test_company_changes_no_picture() -> None:
    jobs = [
        job("guided", guidance_scale=4.0, negative_prompt="blurry", steps=5),
        job("plain", seed=3, steps=5),
        job("windowed", seed=4, control_guidance_end=0.5, steps=4, scheduler="euler_a"),
        job("uncontrolled", seed=5, controlnet_strength=0.0, scheduler="dpm_sde"),
        job("strong", seed=6, controlnet_strength=2.0, guidance_scale=7.0, scheduler="unipc"),
    ]
    together = paint(*jobs)
    for each, picture in zip(jobs, together, strict=True):
        (alone,) = paint(each)
        assert np.abs(picture.astype(int) - alone).max() <= 1, each.request_id


def test_lora_sets_run_side_by_side_and_touch_nobody_else(
    tmp_path: Path, batches: list[list[str]]
) -> None:
    variant, _ = demo_networks("base")
    for seed, name in enumerate(("drone", "style")):
        file = lora_file(tmp_path / f"{name}.safetensors", variant.unet, "kohya", seed, rank=4)
        variant.adapters.add(name, file)
    drone, style = LoraWeight("drone", 0.8), LoraWeight("style", 1.2)
    sets = [(), (drone,), (style,), (drone, style), (LoraWeight("drone", 0.2),)]
    jobs = [job(f"set-{number}", loras=loras) for number, loras in enumerate(sets)]
    together = paint(*jobs)
    assert all(len(batch) == 1 for batch in batches)
    for each, picture in zip(jobs, together, strict=True):
        (alone,) = paint(each)
        assert np.abs(picture.astype(int) - alone).max() <= 1, each.request_id
    different = {picture.tobytes() for picture in together}
    assert len(different) == len(sets)


def test_a_request_that_joins_half_way_shares_the_batch(
    engine: Engine, batches: list[list[str]]
) -> None:
    first, second = Listener(), Listener()
    engine.submit(job("first", steps=4), first)
    engine.tick()
    engine.tick()
    engine.submit(job("second", steps=2, seed=9), second)
    finish(engine)
    assert batches == [["first"], ["first"], ["first", "second"], ["first", "second"]]
    (alone,) = paint(job("second", steps=2, seed=9))
    assert np.abs(pictures(second)[0].astype(int) - alone).max() <= 1


def test_different_sizes_do_not_share_a_batch(engine: Engine, batches: list[list[str]]) -> None:
    other = np.zeros((64, 128), np.uint8)
    engine.submit(job("small"), Listener())
    engine.submit(make_job(other, request_id="wide", steps=2, scheduler="euler"), Listener())
    drain(engine)
    assert all(len(batch) == 1 for batch in batches)


def test_batches_keep_to_the_measured_bound(engine: Engine, batches: list[list[str]]) -> None:
    engine.cost.max_rows = 2
    for name in "abc":
        engine.submit(job(name), Listener())
    engine.submit(job("guided", guidance_scale=3.0), Listener())
    drain(engine)
    assert batches == [["a", "b"], ["a", "b"], ["c"], ["c"], ["guided"], ["guided"]]


def test_cancelling_stops_the_work_within_one_step(
    engine: Engine, batches: list[list[str]]
) -> None:
    listener, other = Listener(), Listener()
    engine.submit(job("cancelled", steps=30), listener)
    engine.submit(job("other", steps=3), other)
    engine.tick()
    assert engine.cancel(CancelOrder(request_id="cancelled")) == ("cancelled",)
    assert failure(listener) == "cancelled"
    finish(engine)
    assert batches == [["cancelled", "other"], ["other"], ["other"]]
    assert pictures(other)


def test_cancelling_by_session_and_all(engine: Engine) -> None:
    listeners = {name: Listener() for name in "abc"}
    engine.submit(job("a", session="left"), listeners["a"])
    engine.submit(job("b", session="right"), listeners["b"])
    engine.submit(job("c"), listeners["c"])
    assert engine.cancel(CancelOrder(session="left")) == ("a",)
    assert engine.cancel(CancelOrder(request_id="a")) == ()
    assert set(engine.cancel(CancelOrder(all=True))) == {"b", "c"}
    assert {failure(listener) for listener in listeners.values()} == {"cancelled"}


def test_a_newer_request_of_a_session_supersedes(engine: Engine) -> None:
    old, waiting, new = Listener(), Listener(), Listener()
    engine.submit(job("old", session="table", steps=9), old)
    engine.tick()
    engine.submit(job("waiting", session="table"), waiting)
    engine.submit(job("new", session="table"), new)
    finish(engine)
    assert failure(old) == failure(waiting) == "superseded"
    assert pictures(new)


def test_of_a_session_the_last_to_arrive_wins_whoever_is_here_first(engine: Engine) -> None:
    newer, older, newest = Listener(), Listener(), Listener()
    engine.submit(job("newer", session="table", arrived=2.0), newer)
    engine.submit(job("older", session="table", arrived=1.0), older)
    assert failure(older) == "superseded"
    drain(engine)
    await_end(newer)
    engine.submit(job("late", session="table", arrived=1.5), older)
    assert failure(older) == "superseded"
    engine.submit(job("newest", session="table", arrived=3.0), newest)
    finish(engine)
    assert pictures(newer)
    assert pictures(newest)


def test_equal_ids_join_and_one_leaving_leaves_the_other(
    engine: Engine, batches: list[list[str]]
) -> None:
    first, second = Listener(), Listener()
    engine.submit(job("same", subscriber="one"), first)
    engine.tick()
    engine.submit(job("same", subscriber="two"), second)
    engine.cancel(CancelOrder(request_id="same", subscriber="one"))
    finish(engine)
    assert not isinstance(first.events[-1], Done | Failed)
    assert pictures(second)
    assert batches == [["same"], ["same"]]


def test_the_last_caller_to_leave_ends_the_work(engine: Engine, batches: list[list[str]]) -> None:
    engine.submit(job("left", subscriber="only", steps=20), Listener())
    engine.tick()
    engine.cancel(CancelOrder(request_id="left", subscriber="only"))
    drain(engine)
    assert len(batches) == 1


def test_a_late_request_is_dropped_without_work(batches: list[list[str]]) -> None:
    clock = Clock()
    engine = make_engine()
    engine._clock = clock
    late, running, fine = Listener(), Listener(), Listener()
    engine.cost.observe_step("base", 64 * 64, 1.0)
    engine.submit(job("hopeless", steps=10, deadline=clock.now + 5), late)
    engine.submit(job("fine", steps=2, deadline=clock.now + 50), fine)
    engine.tick()
    assert failure(late) == "deadline_exceeded"
    engine.submit(job("overtaken", steps=4, deadline=clock.now + 20), running)
    engine.tick()
    clock.now += 30
    finish(engine)
    assert failure(running) == "deadline_exceeded"
    assert pictures(fine)
    assert not any("hopeless" in batch for batch in batches)


def test_a_full_queue_refuses_with_the_time_to_come_back() -> None:
    engine = make_engine(EngineConfig(max_queue=1))
    kept, refused = Listener(), Listener()
    engine.cost.observe_step("base", 64 * 64, 2.0)
    engine.submit(job("kept", steps=3), kept)
    engine.submit(job("refused"), refused)
    failed = refused.events[-1]
    assert isinstance(failed, Failed)
    assert (failed.error, failed.retry_after) == ("overloaded", 6.0)
    finish(engine)
    assert pictures(kept)


def test_a_failing_request_fails_alone(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(samples: Sequence[Sample], device: Device) -> list[torch.Tensor]:
        if any(sample.job.request_id == "bad" for sample in samples):
            raise RuntimeError("secret /path")
        return predict_noise(samples, device)

    monkeypatch.setattr(runners.engine, "predict_noise", broken)
    listeners = {name: Listener() for name in ("a", "bad", "b", "c")}
    for seed, (name, listener) in enumerate(listeners.items()):
        engine.submit(job(name, seed=seed), listener)
    finish(engine)
    failed = listeners["bad"].events[-1]
    assert isinstance(failed, Failed)
    assert failed.error == "internal"
    assert "secret" not in failed.message
    monkeypatch.undo()
    for seed, name in ((0, "a"), (2, "b"), (3, "c")):
        (alone,) = paint(job(name, seed=seed))
        assert np.abs(pictures(listeners[name])[0].astype(int) - alone).max() <= 1


def test_out_of_memory_shrinks_the_batch_before_anyone_sees_an_error(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def small_device(samples: Sequence[Sample], device: Device) -> list[torch.Tensor]:
        sizes.append(len(samples))
        if len(samples) > 2:
            raise torch.OutOfMemoryError
        return predict_noise(samples, device)

    monkeypatch.setattr(runners.engine, "predict_noise", small_device)
    listeners = [Listener() for _ in range(4)]
    for index, listener in enumerate(listeners):
        engine.submit(job(str(index), steps=1), listener)
    finish(engine)
    assert sizes == [4, 2, 2]
    assert all(pictures(listener) for listener in listeners)


def test_out_of_memory_alone_is_said_so(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(samples: Sequence[Sample], device: Device) -> list[torch.Tensor]:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(runners.engine, "predict_noise", full)
    listener = Listener()
    engine.submit(job("big"), listener)
    finish(engine)
    assert failure(listener) == "out_of_memory"


def test_an_unknown_scheduler_setting_is_the_callers_error(engine: Engine) -> None:
    listener = Listener()
    engine.submit(job("odd", scheduler="ddim", use_karras_sigmas=True), listener)
    finish(engine)
    assert failure(listener) == "invalid_request"


def test_previews_come_at_most_five_times_a_second() -> None:
    clock = Clock()
    engine = make_engine()
    engine._clock = clock
    listener = Listener()
    engine.submit(job("seen", steps=6, previews=True), listener)
    for _ in range(6):
        engine.tick()
        clock.now += 0.125
    engine.close()
    steps = [event for event in listener.events if isinstance(event, Step)]
    has_preview = [bool(step.preview) for step in steps]
    assert has_preview == [True, False, True, False, True, False]
    first = Image.open(io.BytesIO(steps[0].preview))
    assert (first.format, first.size) == ("JPEG", (8, 8))


def test_the_loop_runs_in_its_own_thread_and_closes() -> None:
    engine = make_engine()
    engine.start()
    listener = Listener()
    engine.submit(job("threaded"), listener)
    assert engine.call(lambda: None).result(timeout=20) is None
    deadline = 200
    while not isinstance(listener.events[-1], Done) and (deadline := deadline - 1):
        engine._encoders.submit(lambda: None).result()
        engine.call(lambda: None).result(timeout=20)
    engine.close()
    assert pictures(listener)
    ended = Listener()
    engine.submit(job("after"), ended)
    engine.close()
    assert failure(ended) == "runner_lost"
