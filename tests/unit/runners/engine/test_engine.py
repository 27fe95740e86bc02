"""The engine loop: events, shared batches, and isolation of requests."""

from __future__ import annotations

import io
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import runners.engine.engine
from common.protocol import JobDone, LoraWeight, Queued, Started, Step
from runners.device import Device
from runners.diffusion.batch import BatchCache
from runners.diffusion.denoise import predict_noise
from runners.diffusion.sample import Sample
from runners.engine.engine import Engine
from testing.weight_files.random_loras import lora_file
from testing.workbench import Listener, demo_networks, make_engine, make_job
from tests.support.runner.jobs import (
    Clock,
    await_end,
    await_freed,
    drain,
    failure,
    finish,
    job,
    paint,
    pictures,
)


def test_request_receives_an_event_for_every_stage(engine: Engine) -> None:
    listener = Listener()
    engine.submit(job("a", steps=3), listener)
    finish(engine)
    assert listener.events[:-1] == [Queued(0), Started(), Step(1, 3), Step(2, 3), Step(3, 3)]
    done = listener.events[-1]
    assert isinstance(done, JobDone)
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


def test_batching_changes_no_image() -> None:
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


def test_lora_sets_run_side_by_side_without_interference(
    tmp_path: Path, batches: list[list[str]]
) -> None:
    variant, _ = demo_networks("base")
    for seed, name in enumerate(("drone", "style")):
        file = lora_file(tmp_path / f"{name}.safetensors", variant.unet, "kohya", seed, rank=4)
        variant.loras.add(name, file)
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
    engine.cost.max_batch_rows = 2
    for name in "abc":
        engine.submit(job(name), Listener())
    engine.submit(job("guided", guidance_scale=3.0), Listener())
    drain(engine)
    assert batches == [["a", "b"], ["a", "b"], ["c"], ["c"], ["guided"], ["guided"]]


def test_previews_come_at_most_five_times_a_second() -> None:
    clock = Clock()
    engine = make_engine(clock=clock)
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
    assert (first.format, first.size) == ("JPEG", (64, 64))


def test_lack_of_memory_for_a_preview_costs_only_the_preview(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr("runners.engine.engine.start_preview", full)
    engine = make_engine()
    listener = Listener()
    engine.submit(job("seen", steps=3, previews=True), listener)
    finish(engine)
    steps = [event for event in listener.events if isinstance(event, Step)]
    assert [step.preview for step in steps] == [b"", b"", b""]
    (plain,) = paint(job("plain", steps=3))
    assert np.array_equal(pictures(listener)[0], plain)


def test_the_loop_runs_in_its_own_thread_and_closes() -> None:
    engine = make_engine()
    engine.start()
    listener = Listener()
    engine.submit(job("threaded"), listener)
    assert engine.run_on_device_thread(lambda: None).result(timeout=60) is None
    await_end(listener)
    engine.close()
    assert pictures(listener)
    ended = Listener()
    engine.submit(job("after"), ended)
    engine.close()
    assert failure(ended) == "runner_lost"


def test_finished_batch_is_freed_while_others_run(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it holds are its variant's weights too."""
    # Samples take no weak references, but each has a conditioning of its own.
    held: dict[str, weakref.ref[Any]] = {}

    def spy(samples: Sequence[Sample], device: Device, batches: BatchCache) -> list[torch.Tensor]:
        for sample in samples:
            held[sample.job.request_id] = weakref.ref(sample.conditioning.noise)
        return predict_noise(samples, device, batches)

    monkeypatch.setattr(runners.engine.engine, "predict_noise", spy)
    short, long = Listener(), Listener()
    engine.submit(job("short", steps=1), short)
    engine.submit(job("long", model="lightning", steps=4), long)
    engine.tick()
    await_end(short)
    engine.tick()
    await_freed(held["short"])
    assert held["long"]() is not None
    assert long.events[-1] == Step(1, 4)


@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        ({"guidance_scale": 3.0}, [2, 2, 2, 2]),
        ({"guidance_scale": 3.0, "guidance_end": 0.5}, [2, 2, 1, 1]),
        ({"guidance_scale": 3.0, "guidance_start": 0.75}, [1, 1, 1, 2]),
        ({"guidance_scale": 1.0}, [1, 1, 1, 1]),
    ],
)
def test_costs_are_learned_from_the_rows_of_the_step(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], rows: list[int]
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(
        engine.cost, "observe_step", lambda _, pixels, seconds: seen.append(pixels // 64**2)
    )
    engine.submit(job("one", steps=4, **changes), Listener())
    finish(engine)
    assert seen == rows
