"""Metrics and log lines of the engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import structlog
import torch

import runners.engine.engine
import runners.engine.output_stage
from common.protocol import CancelCommand, GenerateJob, LoraWeight
from runners.diffusion.denoise import predict_noise
from runners.diffusion.sample import Sample
from runners.diffusion.vae import PixelTransfer
from runners.engine.engine import Engine
from runners.errors import NonFiniteError
from testing.workbench import Listener, make_engine
from tests.support.metric_delta import Growth
from tests.support.runner.jobs import drain, failure, finish, job, pictures


def paint_in_turn(*jobs: GenerateJob) -> None:
    engine = make_engine()
    for each in jobs:
        engine.submit(each, Listener())
        drain(engine)
    engine.close()


def test_request_metrics_count_images_steps_and_batches(engine: Engine) -> None:
    grown = Growth()
    listener = Listener()
    engine.submit(job("two", steps=3, num_images=2), listener)
    finish(engine)
    assert len(pictures(listener)) == 2
    assert grown.of("pictures_total", model="base") == 2
    assert grown.of("steps_total", model="base") == 6
    assert grown.of("tick_seconds_count", model="base") == 3
    assert grown.of("batch_size_count") == 3
    assert grown.of("batch_size_sum") == 6
    assert grown.of("queue_seconds_count") == grown.of("encode_seconds_count") == 1
    assert grown.of("decode_seconds_count", decoder="full") == 2
    assert grown.of("save_seconds_count", format="png") == 2
    done: Any = listener.events[-1]
    for part, labels in (
        ("encode", {}),
        ("decode", {"decoder": "full"}),
        ("save", {"format": "png"}),
    ):
        assert grown.of(f"{part}_seconds_sum", **labels) == pytest.approx(done.timings[part])
    assert grown.of("tick_seconds_sum", model="base") == pytest.approx(done.timings["denoise"])


def test_only_a_change_is_a_switch() -> None:
    drone = (LoraWeight("drone", 0.8),)
    grown = Growth()
    paint_in_turn(job("a"), job("b"), job("c", loras=drone), job("d", loras=drone))
    assert grown.of("adapter_switches_total") == 1
    assert grown.of("variant_switches_total") == 0
    paint_in_turn(job("a"), job("b", model="lightning"), job("c", loras=drone))
    assert grown.of("variant_switches_total") == 2
    assert grown.of("adapter_switches_total") == 2


def test_a_batch_that_does_not_fit_is_counted_once_per_halving(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small_device(samples: Sequence[Sample], *rest: Any) -> list[torch.Tensor]:
        if len(samples) > 1:
            raise torch.OutOfMemoryError
        return predict_noise(samples, *rest)

    monkeypatch.setattr(runners.engine.engine, "predict_noise", small_device)
    grown = Growth()
    for name in "abcd":
        engine.submit(job(name, steps=1), Listener())
    finish(engine)
    assert grown.of("out_of_memory_retries_total") == 3
    assert grown.of("pictures_total", model="base") == 4


def test_other_batch_failures_do_not_count_as_out_of_memory(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(samples: Sequence[Sample], *rest: Any) -> list[torch.Tensor]:
        if len(samples) > 1:
            raise RuntimeError("something else")
        return predict_noise(samples, *rest)

    monkeypatch.setattr(runners.engine.engine, "predict_noise", broken)
    grown = Growth()
    for name in "ab":
        engine.submit(job(name, steps=1), Listener())
    finish(engine)
    assert grown.of("out_of_memory_retries_total") == 0
    assert grown.of("pictures_total", model="base") == 2


@pytest.mark.parametrize("lit", [0, 1])
def test_a_picture_is_black_if_no_pixel_is_lit(
    lit: int, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(*_: Any) -> PixelTransfer:
        image = torch.zeros(3, 64, 64)
        image[2, 63, 63] = lit / 255
        return PixelTransfer(image)

    monkeypatch.setattr(runners.engine.output_stage, "start_decode", decode)
    grown = Growth()
    listener = Listener()
    engine.submit(job("dark"), listener)
    finish(engine)
    assert pictures(listener)
    assert grown.of("black_pictures_total") == 1 - lit


def test_nonfinite_pixels_are_counted_and_not_sent(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(*_: Any) -> PixelTransfer:
        raise NonFiniteError("no numbers")

    monkeypatch.setattr(runners.engine.output_stage, "start_decode", decode)
    grown = Growth()
    listener = Listener()
    engine.submit(job("nan"), listener)
    finish(engine)
    assert failure(listener) == "internal"
    assert grown.of("not_finite_pictures_total") == 1
    assert grown.of("pictures_total", model="base") == grown.of("black_pictures_total") == 0


def test_log_lines_of_a_request_have_its_id(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(latents: torch.Tensor, *rest: Any) -> PixelTransfer:
        if failing:
            raise RuntimeError("worn out")
        return real_decode(latents, *rest)

    real_decode = runners.engine.output_stage.start_decode
    monkeypatch.setattr(runners.engine.output_stage, "start_decode", decode)
    monkeypatch.setattr("runners.engine.telemetry.log", structlog.get_logger())
    monkeypatch.setattr("runners.engine.request_state.log", structlog.get_logger())
    failing = False
    with structlog.testing.capture_logs() as lines:
        engine.submit(job("good"), Listener())
        drain(engine)
        failing = True
        engine.submit(job("bad"), Listener())
        drain(engine)
        engine.submit(job("left"), Listener())
        engine.cancel(CancelCommand(request_id="left"))
        finish(engine)
    assert [line["event"] for line in lines if line["request_id"] == "good"] == [
        "started", "finished",
    ]  # fmt: skip
    (finished,) = (line for line in lines if line["event"] == "finished")
    assert finished["denoise"] > 0
    bad = {line["event"]: line for line in lines if line["request_id"] == "bad"}
    assert list(bad) == ["started", "request failed", "ended"]
    assert str(bad["request failed"]["exc_info"]) == "worn out"
    assert bad["ended"]["error"] == "internal"
    assert [line["error"] for line in lines if line["request_id"] == "left"] == ["cancelled"]
