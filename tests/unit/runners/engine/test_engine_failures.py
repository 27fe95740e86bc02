"""Failed, cancelled and rejected requests, which affect no other request."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

import runners.engine.engine
import runners.engine.output_stage
from common.protocol import CancelCommand, GenerateJob, JobFailed, LoraMode, LoraWeight, Step
from runners.device import Device
from runners.diffusion.batch import BatchCache
from runners.diffusion.conditioning import Conditioning, ConditioningBuilder
from runners.diffusion.denoise import predict_noise
from runners.diffusion.sample import Sample
from runners.diffusion.vae import PixelTransfer, start_decode
from runners.engine.engine import Engine, EngineConfig
from runners.networks.sdxl import SdxlModel
from testing.workbench import Listener, ResidentLoader, demo_networks, make_engine
from tests.support.runner.jobs import (
    Clock,
    await_end,
    drain,
    failure,
    finish,
    job,
    paint,
    pictures,
)


def test_cancelling_stops_the_work_within_one_step(
    engine: Engine, batches: list[list[str]]
) -> None:
    listener, other = Listener(), Listener()
    engine.submit(job("cancelled", steps=30), listener)
    engine.submit(job("other", steps=3), other)
    engine.tick()
    assert engine.cancel(CancelCommand(request_id="cancelled")) == ("cancelled",)
    assert failure(listener) == "cancelled"
    finish(engine)
    assert batches == [["cancelled", "other"], ["other"], ["other"]]
    assert pictures(other)


def test_cancelling_by_session_and_all(engine: Engine) -> None:
    listeners = {name: Listener() for name in "abc"}
    engine.submit(job("a", session="left"), listeners["a"])
    engine.submit(job("b", session="right"), listeners["b"])
    engine.submit(job("c"), listeners["c"])
    assert engine.cancel(CancelCommand(session="left")) == ("a",)
    assert engine.cancel(CancelCommand(request_id="a")) == ()
    assert set(engine.cancel(CancelCommand(all=True))) == {"b", "c"}
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


def test_latest_arrival_of_a_session_wins_in_any_order(engine: Engine) -> None:
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


def test_equal_ids_join_and_cancelling_one_keeps_the_other(
    engine: Engine, batches: list[list[str]]
) -> None:
    first, second = Listener(), Listener()
    engine.submit(job("same", subscriber="one", fingerprint="equal"), first)
    engine.tick()
    engine.submit(job("same", subscriber="two", fingerprint="equal"), second)
    engine.cancel(CancelCommand(request_id="same", subscriber="one"))
    finish(engine)
    assert failure(first) == "cancelled"
    assert pictures(second)
    assert batches == [["same"], ["same"]]


def test_unequal_request_of_an_unfinished_id_is_a_conflict(
    engine: Engine, batches: list[list[str]]
) -> None:
    first, second, third = Listener(), Listener(), Listener()
    engine.submit(job("same", fingerprint="one"), first)
    engine.submit(job("same", fingerprint="other"), second)
    assert failure(second) == "conflict"
    while engine.tick():
        pass
    await_end(first)
    assert pictures(first)
    engine.submit(job("same", fingerprint="other"), third)
    finish(engine)
    assert pictures(third), "the id is free again"


def test_ids_of_the_service_join_nothing(engine: Engine, batches: list[list[str]]) -> None:
    listeners = [Listener(), Listener()]
    for number, listener in enumerate(listeners):
        engine.submit(job("trace", seed=number), listener)
    finish(engine)
    one, other = (pictures(listener)[0] for listener in listeners)
    assert not np.array_equal(one, other)


def test_ids_and_sessions_are_separate_per_owner(engine: Engine, batches: list[list[str]]) -> None:
    mine, theirs = Listener(), Listener()
    engine.submit(job("same", owner="me", session="me/table", steps=3), mine)
    engine.tick()
    engine.submit(job("same", owner="they", session="they/table", steps=2), theirs)
    for stranger in ("they", "", "me/"):
        order = CancelCommand(request_id="same", owner=stranger, subscriber="nobody")
        assert engine.cancel(order) == ()
    assert engine.cancel(CancelCommand(session="me/table", owner="they")) == ()
    finish(engine)
    assert pictures(mine)
    assert pictures(theirs)
    assert sum(len(batch) for batch in batches) == 5, "neither joined the other"


def test_cancel_by_last_subscriber_ends_the_request(
    engine: Engine, batches: list[list[str]]
) -> None:
    engine.submit(job("left", subscriber="only", steps=20), Listener())
    engine.tick()
    engine.cancel(CancelCommand(request_id="left", subscriber="only"))
    drain(engine)
    assert len(batches) == 1


def test_a_late_request_is_dropped_without_work(batches: list[list[str]]) -> None:
    clock = Clock()
    engine = make_engine(clock=clock)
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


def test_full_queue_rejects_with_retry_after() -> None:
    engine = make_engine(EngineConfig(max_queue=1))
    kept, refused = Listener(), Listener()
    engine.cost.observe_step("base", 64 * 64, 2.0)
    engine.submit(job("kept", steps=3), kept)
    engine.submit(job("refused"), refused)
    failed = refused.events[-1]
    assert isinstance(failed, JobFailed)
    assert (failed.error, failed.retry_after) == ("overloaded", 6.0)
    finish(engine)
    assert pictures(kept)


def test_backlog_in_seconds_fills_the_queue() -> None:
    engine = make_engine(EngineConfig(max_queue_seconds=12.0))
    engine.cost.observe_step("base", 64 * 64, 2.0)
    first, second, refused = Listener(), Listener(), Listener()
    engine.submit(job("first", steps=2), first)
    engine.submit(job("second", steps=3), second)
    engine.submit(job("refused"), refused)
    failed = refused.events[-1]
    assert isinstance(failed, JobFailed)
    assert (failed.error, failed.retry_after) == ("overloaded", 10.0)
    finish(engine)
    assert pictures(first)
    assert pictures(second)


def test_empty_queue_accepts_the_longest_request() -> None:
    engine = make_engine(EngineConfig(max_queue_seconds=1.0))
    engine.cost.observe_step("base", 64 * 64, 2.0)
    listener = Listener()
    engine.submit(job("long", steps=3), listener)
    finish(engine)
    assert pictures(listener)


def test_failing_request_does_not_fail_others(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(samples: Sequence[Sample], device: Device, _: BatchCache) -> list[torch.Tensor]:
        if any(sample.job.request_id == "bad" for sample in samples):
            raise RuntimeError("secret /path")
        return predict_noise(samples, device)

    monkeypatch.setattr(runners.engine.engine, "predict_noise", broken)
    listeners = {name: Listener() for name in ("a", "bad", "b", "c")}
    for seed, (name, listener) in enumerate(listeners.items()):
        engine.submit(job(name, seed=seed), listener)
    finish(engine)
    failed = listeners["bad"].events[-1]
    assert isinstance(failed, JobFailed)
    assert failed.error == "internal"
    assert "secret" not in failed.message
    monkeypatch.undo()
    for seed, name in ((0, "a"), (2, "b"), (3, "c")):
        (alone,) = paint(job(name, seed=seed))
        assert np.abs(pictures(listeners[name])[0].astype(int) - alone).max() <= 1


def test_out_of_memory_shrinks_the_batch_before_any_error(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def small_device(
        samples: Sequence[Sample], device: Device, _: BatchCache
    ) -> list[torch.Tensor]:
        sizes.append(len(samples))
        if len(samples) > 2:
            raise torch.OutOfMemoryError
        return predict_noise(samples, device)

    monkeypatch.setattr(runners.engine.engine, "predict_noise", small_device)
    listeners = [Listener() for _ in range(4)]
    for index, listener in enumerate(listeners):
        engine.submit(job(str(index), steps=1), listener)
    finish(engine)
    assert sizes == [4, 2, 2]
    assert all(pictures(listener) for listener in listeners)


@pytest.mark.parametrize("lora_mode", ["merged", "low_rank"])
def test_out_of_memory_evicts_cached_lora_sets(
    lora_mode: LoraMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(lora_mode=lora_mode)
    variant, _ = demo_networks("base", lora_mode)

    def set_bytes() -> int:
        copy = variant.loras.working_copy
        return variant.loras.set_bytes if copy is None else copy.bytes

    jobs = [job(str(index), loras=(LoraWeight("drone", 0.3),), steps=2) for index in range(2)]
    held: list[int] = []
    steps: list[int] = []

    def small_device(
        samples: Sequence[Sample], device: Device, batches: BatchCache
    ) -> list[torch.Tensor]:
        predictions = predict_noise(samples, device, batches)
        steps.append(set_bytes())
        if len(steps) == 1:
            raise torch.OutOfMemoryError
        return predictions

    release = ResidentLoader.release_memory

    def watched_release(loader: ResidentLoader) -> None:
        release(loader)
        held.append(set_bytes())

    monkeypatch.setattr(runners.engine.engine, "predict_noise", small_device)
    monkeypatch.setattr(ResidentLoader, "release_memory", watched_release)
    listeners = [Listener() for _ in jobs]
    for each, listener in zip(jobs, listeners, strict=True):
        engine.submit(each, listener)
    finish(engine)
    assert all(size > 0 for size in steps)
    assert held == [0]
    assert all(pictures(listener) for listener in listeners)


def test_out_of_memory_of_one_request_is_reported(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(samples: Sequence[Sample], device: Device, _: BatchCache) -> list[torch.Tensor]:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(runners.engine.engine, "predict_noise", full)
    listener = Listener()
    engine.submit(job("big"), listener)
    finish(engine)
    assert failure(listener) == "out_of_memory"


def test_sample_alone_is_retried_once_without_the_first_attempts_tensors(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def tight(samples: Sequence[Sample], device: Device, _: BatchCache) -> list[torch.Tensor]:
        alive.append(sum(reference() is not None for reference in held))
        activation = torch.zeros(4)
        held.append(weakref.ref(activation))
        if len(held) == 1:
            raise torch.OutOfMemoryError
        return predict_noise(samples, device)

    release = engine.release_memory

    def release_and_count() -> None:
        alive.append(sum(reference() is not None for reference in held))
        release()

    monkeypatch.setattr(runners.engine.engine, "predict_noise", tight)
    monkeypatch.setattr(engine, "release_memory", release_and_count)
    listener = Listener()
    engine.submit(job("alone", steps=1), listener)
    finish(engine)
    assert pictures(listener)
    assert alive == [0, 0, 0], "the traceback of the first attempt holds its activation"


def test_admission_is_retried_once_on_an_idle_engine(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, tries = ConditioningBuilder.build, 0

    def tight(self: ConditioningBuilder, job: GenerateJob, *networks: Any) -> Conditioning:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise RuntimeError("cuBLAS error: CUBLAS_STATUS_ALLOC_FAILED when calling `create`")
        return build(self, job, *networks)

    monkeypatch.setattr(ConditioningBuilder, "build", tight)
    listener = Listener()
    engine.submit(job("first"), listener)
    finish(engine)
    assert pictures(listener)
    assert tries == 2


def test_a_decode_that_does_not_fit_is_tried_once_more(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []

    def tight(latents: torch.Tensor, variant: SdxlModel, decoder: str) -> PixelTransfer:
        tries.append(decoder)
        if len(tries) in {1, 3, 4}:
            raise torch.OutOfMemoryError
        return start_decode(latents, variant, decoder)

    monkeypatch.setattr(runners.engine.output_stage, "start_decode", tight)
    fits, never = Listener(), Listener()
    engine.submit(job("fits", steps=1), fits)
    drain(engine)
    engine.submit(job("never", steps=1), never)
    finish(engine)
    assert pictures(fits)
    assert failure(never) == "out_of_memory"
    assert len(tries) == 4


def test_request_without_memory_to_encode_waits_for_idle_engine(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = ConditioningBuilder.build
    small, large = Listener(), Listener()
    refused = 0

    def tight(self: ConditioningBuilder, job: GenerateJob, *networks: Any) -> Conditioning:
        nonlocal refused
        if job.request_id == "large" and Step(3, 3) not in small.events:
            refused += 1
            raise torch.OutOfMemoryError
        return build(self, job, *networks)

    monkeypatch.setattr(ConditioningBuilder, "build", tight)
    engine.submit(job("small", steps=3), small)
    engine.submit(job("large", steps=1), large)
    finish(engine)
    assert refused
    assert pictures(small)
    assert pictures(large)


def test_encoding_without_memory_on_idle_engine_is_reported(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Conditioning:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(ConditioningBuilder, "build", full)
    listener = Listener()
    engine.submit(job("large"), listener)
    finish(engine)
    assert failure(listener) == "out_of_memory"


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
def test_prompt_of_too_many_tokens_is_a_client_error(engine: Engine, field: str) -> None:
    fits, too_long = Listener(), Listener()
    settings = {"steps": 1, "guidance_scale": 2.0}
    engine.submit(job("fits", **settings, **{field: "x" * 2000}), fits)
    engine.submit(job("long", **settings, **{field: "山" * 1000}), too_long)
    finish(engine)
    assert pictures(fits)
    failed = too_long.events[-1]
    assert isinstance(failed, JobFailed)
    assert failed.error == "invalid_request"
    assert failed.message == f"{field}: more than 2250 tokens"


def test_unknown_scheduler_setting_is_a_client_error(engine: Engine) -> None:
    listener = Listener()
    engine.submit(job("odd", scheduler="ddim", use_karras_sigmas=True), listener)
    finish(engine)
    assert failure(listener) == "invalid_request"
