"""Pixels that arrive after the engine has gone on, as from a GPU."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

import runners.engine.engine
import runners.engine.output_stage
from common.protocol import JobDone, Step
from runners.device import Device
from runners.diffusion import fp16_accumulation
from runners.diffusion.denoise import predict_noise
from runners.diffusion.preview import start_preview
from runners.diffusion.sample import Sample
from runners.diffusion.vae import Pixels, PixelTransfer, start_decode
from runners.engine.engine import Engine, EngineConfig
from runners.errors import NonFiniteError
from runners.networks.loading import extract_hint_embedding, load_component
from runners.networks.sdxl import SdxlModel
from testing.workbench import (
    WEIGHTS,
    Listener,
    ResidentLoader,
    component_folders,
    demo_catalog,
    drain,
    make_engine,
)
from tests.support.runner.jobs import await_end, failure, finish, job, paint, pictures
from tests.support.waiting import wait_until


class LateTransfer:
    """Pixels whose arrival a test decides; they may turn out not to be finite."""

    def __init__(self, transfer: PixelTransfer, arrival: threading.Event, finite: bool) -> None:
        self._transfer = transfer
        self._arrival = arrival
        self._finite = finite
        self.is_complete = False

    def wait(self) -> Pixels:
        assert self._arrival.wait(60)
        if not self._finite:
            raise NonFiniteError("the decoded image contains NaN or infinity")
        return self._transfer.wait()


@contextlib.contextmanager
def fp16_accumulation_enabled() -> Iterator[None]:
    fp16_accumulation.enable(True)
    try:
        yield
    finally:
        fp16_accumulation.enable(False)


@pytest.fixture
def arrival() -> threading.Event:
    return threading.Event()


def delay_decodes(
    monkeypatch: pytest.MonkeyPatch, arrival: threading.Event, finite: bool = True
) -> list[bool]:
    """Make decodes late, those in float32 excepted; return which were in float32."""
    seen: list[bool] = []

    def decode(*arguments: Any, in_float32: bool = False) -> Any:
        seen.append(in_float32)
        transfer = start_decode(*arguments)
        return transfer if in_float32 else LateTransfer(transfer, arrival, finite)

    monkeypatch.setattr(runners.engine.output_stage, "start_decode", decode)
    return seen


def test_engine_goes_on_while_pixels_are_on_their_way(
    engine: Engine, arrival: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    delay_decodes(monkeypatch, arrival)
    first, second = Listener(), Listener()
    engine.submit(job("first", steps=1, seed=3), first)
    drain(engine)
    engine.submit(job("second", steps=3), second)
    drain(engine)
    assert Step(3, 3) in second.events
    assert not isinstance(first.events[-1], JobDone)
    arrival.set()
    finish(engine)
    assert pictures(second)
    (alone,) = paint(job("first", steps=1, seed=3))
    assert np.abs(pictures(first)[0].astype(int) - alone).max() <= 1


def test_late_overflow_is_decoded_again_on_the_device_thread(
    arrival: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = Device(torch.device("cpu"), torch.float16)
    catalog = demo_catalog()
    folders = component_folders(catalog, "base")
    parts = {kind: load_component(kind, folder, half) for kind, folder in folders.items()}
    variant = SdxlModel.from_components("base", catalog.models["base"], parts, text_key="half")
    controlnet = extract_hint_embedding(
        "depth", load_component("controlnet", WEIGHTS / "controlnet", half)
    )
    loader: Any = ResidentLoader({"base": (variant, controlnet)})
    engine = Engine(loader, half)
    seen = delay_decodes(monkeypatch, arrival, finite=False)
    listener = Listener()
    engine.start()
    engine.submit(job("overflows", steps=1), listener)
    wait_until(lambda: seen == [False])
    arrival.set()
    await_end(listener)
    engine.close()
    assert pictures(listener)
    assert seen == [False, True]


def test_image_that_sums_in_float16_overflow_is_generated_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once with float32 sums; an image that overflows all the same fails."""
    exact: list[bool] = []

    def predict(samples: Sequence[Sample], *rest: Any) -> list[torch.Tensor]:
        (sample,) = samples
        exact.append(sample.exact_sums)
        predictions = predict_noise(samples, *rest)
        is_broken = sample.job.request_id == "broken" or not sample.exact_sums
        return [each * float("nan") for each in predictions] if is_broken else predictions

    monkeypatch.setattr(runners.engine.engine, "predict_noise", predict)
    repeated, broken = Listener(), Listener()
    with fp16_accumulation_enabled():
        engine.submit(job("repeated", steps=2, seed=5), repeated)
        finish(engine)
        engine.submit(job("broken", steps=2), broken)
        finish(engine)
    assert exact == [False, False, True, True] * 2
    assert failure(broken) == "internal"
    monkeypatch.undo()
    (plain,) = paint(job("plain", steps=2, seed=5))
    assert np.array_equal(pictures(repeated)[0], plain)


def test_late_overflow_in_full_precision_fails(
    engine: Engine, arrival: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    delay_decodes(monkeypatch, arrival, finite=False)
    arrival.set()
    listener = Listener()
    engine.submit(job("overflows", steps=1), listener)
    finish(engine)
    assert failure(listener) == "internal"


def test_events_keep_their_order_while_previews_are_late(
    arrival: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    def preview(*arguments: Any) -> Any:
        transfer = start_preview(*arguments)
        assert transfer is not None
        return LateTransfer(transfer, arrival, finite=len(shown) != 1)

    shown: list[int] = []
    monkeypatch.setattr(runners.engine.engine, "start_preview", preview)
    engine = make_engine(EngineConfig(preview_interval=0))
    listener = Listener()
    engine.submit(job("seen", steps=3, previews=True), listener)
    engine.tick()
    assert not any(isinstance(event, Step) for event in listener.events)
    shown.append(1)
    arrival.set()
    finish(engine)
    steps = [event for event in listener.events if isinstance(event, Step)]
    assert [(step.index, step.total) for step in steps] == [(1, 3), (2, 3), (3, 3)]
    assert [bool(step.preview) for step in steps] == [True, False, False]
    assert pictures(listener)
