"""Depth estimates on the device: scheduling beside images, and every outcome."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from common.protocol import CancelCommand, DepthResult, EstimateJob, JobFailed
from common.settings import Settings
from models.demo.training.data.rendering import render
from models.demo.training.data.terrain import make_terrain
from models.store.inventory import LiveInventory
from runners.errors import NonFiniteError
from runners.server.device_worker import DeviceWorker
from runners.server.router import EngineRouter
from testing.imports import store_at
from testing.workbench import DEVICE, Listener, demo_catalog
from tests.support.metric_delta import Growth
from tests.support.runner.jobs import await_end, job, paint, pictures
from tests.support.waiting import wait_until

PICTURE = render(make_terrain(9_100_002, (256, 256), "craters").height, "modern", 4)
PHOTOGRAPH = EstimateJob("photo", "s", "relief", PICTURE.tobytes(), 256, 256)


class Answers:
    """Collects what a photograph ends with."""

    def __init__(self) -> None:
        self.all: list[DepthResult | JobFailed] = []
        self._there = threading.Event()

    def __call__(self, answer: DepthResult | JobFailed) -> None:
        self.all.append(answer)
        self._there.set()

    def one(self) -> Any:
        assert self._there.wait(60)
        assert len(self.all) == 1
        return self.all[0]


class Device:
    """An estimator that raises what it is told, one error after the other."""

    def __init__(self) -> None:
        self.network = torch.nn.Identity()
        self.errors: list[Exception] = []

    def estimate(self, picture: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        if self.errors:
            raise self.errors.pop(0)
        return picture[..., 0]


@pytest.fixture
def pool(demo_home: Path) -> Iterator[EngineRouter]:
    """Two workers whose engines nobody runs until `start`."""
    with store_at(demo_home):
        catalog, live_inventory = demo_catalog(), LiveInventory(demo_catalog())
        settings = Settings(max_queue=4)
        made = EngineRouter(
            [DeviceWorker(catalog, live_inventory, DEVICE, settings, 2) for _ in range(2)]
        )
        yield made
        made.close()


@pytest.fixture
def estimator(pool: EngineRouter, monkeypatch: pytest.MonkeyPatch) -> Device:
    """Such an estimator in the first worker's memory, where photographs then go."""
    made = Device()
    monkeypatch.setattr("runners.weights.component_cache.load_estimator", lambda *_: made)
    pool.workers[0].model_cache.load_estimator("relief")
    return made


def start(pool: EngineRouter) -> None:
    for worker in pool.workers:
        worker.engine.start()


def ask(pool: EngineRouter, **changes: Any) -> Answers:
    answers = Answers()
    pool.estimate(replace(PHOTOGRAPH, **changes), answers)
    return answers


def await_none(pool: EngineRouter) -> None:
    wait_until(lambda: not any(worker.estimates.waiting() for worker in pool.workers))


def test_estimates_run_between_steps_and_change_no_image(pool: EngineRouter) -> None:
    start(pool)
    worker = pool.workers[0]
    listener = Listener()
    painted = job("a", steps=6)
    worker.ensure_loaded("base", "sdxl_small")
    worker.engine.submit(painted, listener)
    answers = [Answers() for _ in range(2)]
    for each in answers:
        worker.estimates.submit(PHOTOGRAPH, each)
    depths = {each.one().depth for each in answers}
    await_end(listener)
    assert len(depths) == 1
    assert len(depths.pop()) == 256 * 256
    (alone,) = paint(painted)
    assert np.abs(pictures(listener)[0].astype(int) - alone.astype(int)).max() <= 1
    assert worker.estimates.waiting() == 0
    assert worker.model_cache.resident_bytes["depth_estimator"] > 0
    assert not worker.weights_in_use()


def test_estimates_go_to_the_device_with_the_estimator(pool: EngineRouter) -> None:
    start(pool)
    ask(pool).one()
    holders = [bool(worker.model_cache.estimators) for worker in pool.workers]
    assert sorted(holders) == [False, True]
    for turn in range(3):
        ask(pool, request_id=str(turn)).one()
    assert [bool(worker.model_cache.estimators) for worker in pool.workers] == holders


def test_out_of_memory_estimate_is_retried_once(pool: EngineRouter, estimator: Device) -> None:
    grown = Growth()
    start(pool)
    estimator.errors = [torch.OutOfMemoryError("full")]
    assert ask(pool).one().depth == PICTURE[..., 0].tobytes()
    estimator.errors = [torch.OutOfMemoryError("full")] * 2
    failed = ask(pool).one()
    assert (failed.error, failed.retry_after) == ("out_of_memory", 5.0)
    assert grown.of("out_of_memory_retries_total") == 2
    assert ask(pool).one().depth == PICTURE[..., 0].tobytes()


def test_nonfinite_estimate_is_an_internal_error(pool: EngineRouter, estimator: Device) -> None:
    grown = Growth()
    start(pool)
    estimator.errors = [NonFiniteError("no number")]
    assert ask(pool).one().error == "internal"
    assert grown.of("not_finite_pictures_total") == 1
    estimator.errors = [RuntimeError("/secret")]
    failed = ask(pool).one()
    assert (failed.error, failed.message) == ("internal", "internal error")


def test_missing_estimator_is_reported(pool: EngineRouter) -> None:
    start(pool)
    failed = ask(pool, estimator="midas").one()
    assert failed.error == "not_ready"
    assert failed.message == "depth_estimator midas is not in the model store"


@pytest.mark.parametrize(
    "order",
    [
        CancelCommand(all=True),
        CancelCommand(request_id="photo"),
        CancelCommand(request_id="photo", subscriber="s"),
        CancelCommand(session="table"),
    ],
)
def test_cancelled_estimate_releases_everything(pool: EngineRouter, order: CancelCommand) -> None:
    waiting = ask(pool, session="table")
    other = CancelCommand(request_id="photo", subscriber="another")
    assert pool.cancel(other) == ()
    assert pool.snapshot()[0] == 1
    assert pool.cancel(order) == ("photo",)
    assert waiting.one().error == "cancelled"
    assert pool.snapshot()[0] == 0
    assert not any(worker.weights_in_use() for worker in pool.workers)
    start(pool)
    ask(pool).one()
    assert len(waiting.all) == 1


def test_newer_request_of_a_session_supersedes_estimate(pool: EngineRouter) -> None:
    old = ask(pool, session="table", arrived=1.0)
    late = ask(pool, request_id="b", session="table", arrived=2.0)
    assert old.one().error == "superseded"
    pool.submit(job("c", session="table", arrived=3.0), Listener())
    assert late.one().error == "superseded"


def test_more_than_the_queue_holds_are_refused(pool: EngineRouter) -> None:
    taken = [ask(pool, request_id=str(number)) for number in range(4)]
    refused = ask(pool).one()
    assert (refused.error, refused.message) == ("overloaded", "2 requests are waiting")
    assert refused.retry_after >= 1.0
    start(pool)
    assert all(isinstance(each.one(), DepthResult) for each in taken)


def test_estimates_are_rejected_while_requests_are(pool: EngineRouter) -> None:
    for number, worker in enumerate(pool.workers * 2):
        worker.engine.submit(job(str(number)), Listener())
    assert pool.retry_after() is not None
    assert ask(pool).one().error == "overloaded"


def test_close_ends_waiting_estimates(demo_home: Path) -> None:
    with store_at(demo_home):
        catalog, live_inventory = demo_catalog(), LiveInventory(demo_catalog())
        pool = EngineRouter([DeviceWorker(catalog, live_inventory, DEVICE, Settings())])
        waiting = ask(pool)
        pool.close()
        assert waiting.one().error == "runner_lost"
        await_none(pool)
