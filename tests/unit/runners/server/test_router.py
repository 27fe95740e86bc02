"""Several devices as one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.protocol import CancelCommand, GenerateJob
from common.settings import Settings
from models.store.inventory import LiveInventory
from runners.server.device_worker import DeviceWorker
from runners.server.router import EngineRouter
from testing.imports import store_at
from testing.workbench import DEVICE, Listener, demo_catalog
from tests.support.runner.jobs import await_end, failure, job, paint, pictures
from tests.support.waiting import wait_until

CONTROLNET = "sdxl_small"


@pytest.fixture
def pool(demo_home: Path) -> Iterator[EngineRouter]:
    """Two engines that nobody ticks until `start` is called."""
    with store_at(demo_home):
        catalog, live_inventory = demo_catalog(), LiveInventory(demo_catalog())
        made = EngineRouter(
            [DeviceWorker(catalog, live_inventory, DEVICE, Settings(), 2) for _ in range(2)]
        )
        yield made
        made.close()


def start(pool: EngineRouter) -> None:
    for worker in pool.workers:
        worker.engine.start()


def waiting(pool: EngineRouter) -> list[int]:
    return [worker.engine.load()[0] for worker in pool.workers]


def submit(pool: EngineRouter, *jobs: GenerateJob) -> list[Listener]:
    listeners = [Listener() for _ in jobs]
    for each, listener in zip(jobs, listeners, strict=True):
        pool.submit(each, listener)
    return listeners


def set_step_cost(pool: EngineRouter, seconds: float) -> None:
    """A step of every variant takes so long."""
    for worker in pool.workers:
        for model in ("base", "lightning"):
            worker.engine.cost.observe_step(model, 64 * 64, seconds)


def test_request_is_routed_to_the_device_with_its_weights(pool: EngineRouter) -> None:
    pool.workers[1].ensure_loaded("base", CONTROLNET)
    assert pool.workers[1].model_cache.load_seconds("base", CONTROLNET) == 0
    submit(pool, job("a"))
    assert waiting(pool) == [0, 1]


def test_queue_longer_than_a_load_routes_to_another_device(pool: EngineRouter) -> None:
    pool.workers[1].ensure_loaded("base", CONTROLNET)
    set_step_cost(pool, 1.0)
    elsewhere = pool.workers[0].model_cache
    size = round(elsewhere.load_seconds("base", CONTROLNET) * elsewhere.load_rate.observed)
    # Two steps each, and 6 s for variant and ControlNet elsewhere.
    elsewhere.load_rate.observe(size, 6.0)
    assert elsewhere.load_seconds("base", CONTROLNET) == pytest.approx(6.0)
    submit(pool, *(job(f"{n}") for n in range(3)))
    assert waiting(pool) == [0, 3]
    submit(pool, job("further"))
    assert waiting(pool) == [1, 3]


def test_equal_workers_share_the_work(pool: EngineRouter) -> None:
    set_step_cost(pool, 1.0)
    for worker in pool.workers:
        worker.ensure_loaded("base", CONTROLNET)
    submit(pool, *(job(f"{n}") for n in range(6)))
    assert waiting(pool) == [3, 3]
    assert pool.snapshot() == (6, 0, 6.0)


def test_a_second_request_of_an_id_joins_the_first(pool: EngineRouter) -> None:
    pool.workers[1].ensure_loaded("base", CONTROLNET)
    submit(pool, job("same", fingerprint="equal"))
    pool.workers[0].ensure_loaded("base", CONTROLNET)
    submit(pool, job("same", subscriber="other", fingerprint="equal"))
    assert waiting(pool) == [0, 1]


def test_a_sessions_newer_request_ends_the_older_elsewhere(pool: EngineRouter) -> None:
    pool.workers[1].ensure_loaded("base", CONTROLNET)
    (older,) = submit(pool, job("older", session="sand", arrived=1.0))
    set_step_cost(pool, 100.0)
    pool.workers[0].ensure_loaded("base", CONTROLNET)
    (newer,) = submit(pool, job("newer", session="sand", arrived=2.0))
    assert failure(older) == "superseded"
    assert waiting(pool) == [1, 0]
    assert len(newer.events) == 1


def test_cancelling_reaches_every_worker(pool: EngineRouter) -> None:
    set_step_cost(pool, 1.0)
    for worker in pool.workers:
        worker.ensure_loaded("base", CONTROLNET)
    listeners = submit(pool, *(job(f"{n}") for n in range(4)))
    assert sorted(pool.cancel(CancelCommand(all=True))) == ["0", "1", "2", "3"]
    assert [failure(listener) for listener in listeners] == ["cancelled"] * 4


def test_every_worker_paints_the_same(pool: EngineRouter) -> None:
    for worker in pool.workers:
        worker.ensure_loaded("base", CONTROLNET)
    jobs = [job(f"{n}", seed=n) for n in range(4)]
    set_step_cost(pool, 1.0)
    listeners = submit(pool, *jobs)
    assert waiting(pool) == [2, 2]
    start(pool)
    for each, listener in zip(jobs, listeners, strict=True):
        await_end(listener)
        (alone,) = paint(each)
        shown: Any = pictures(listener)[0]
        assert np.abs(shown.astype(int) - alone.astype(int)).max() <= 1
    wait_until(lambda: pool.snapshot()[:2] == (0, 0))


def test_router_is_full_when_every_device_is(pool: EngineRouter) -> None:
    # Two steps, 70 s: longer than the 60 s of a queue, taken where nothing is ahead.
    set_step_cost(pool, 35.0)
    submit(pool, job("a"))
    assert pool.retry_after() is None
    submit(pool, job("b"))
    assert waiting(pool) == [1, 1]
    assert pool.retry_after() == pytest.approx(70, rel=0.1)
    [refused] = submit(pool, job("c"))
    assert failure(refused) == "overloaded"
