"""The runner's start: timing, warm-up, and failures of either."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx
import psutil
import pytest
import torch
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import runners.server.warmup
from api.http.middleware import ApiMiddleware
from common.lifecycle import READY_LINE
from common.protocol import CancelCommand
from common.settings import Settings
from models.store.inventory import Inventory
from runners.device import Device
from runners.diffusion.denoise import predict_noise
from runners.diffusion.sample import Sample
from runners.engine.cost_model import CostModel
from runners.engine.engine import Engine
from runners.errors import LoadError, WarmUpError
from runners.networks.sdxl import ControlNet, SdxlModel
from runners.server.app import RunnerApp
from runners.server.startup_timer import StartupTimer
from runners.server.warmup import generate_one_per_size, warm_up
from testing.workbench import DEVICE, demo_catalog, demo_networks, make_engine


class Seconds:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_phases_are_sequential_and_sum_to_the_total() -> None:
    seconds = Seconds()
    told: list[tuple[str, float]] = []
    clock = StartupTimer(990.0, lambda phase, took: told.append((phase, took)), seconds)
    assert clock.end_phase("imports") == 10.0
    seconds.now += 2.5
    assert clock.end_phase("load", model="base") == 2.5
    assert clock.end() == 12.5
    assert dict(clock.phases) == {"imports": 10.0, "load": 2.5, "ready": 12.5}
    assert told == list(clock.phases.items())


def test_the_first_phase_begins_with_the_process() -> None:
    seconds = Seconds()
    seconds.now += psutil.Process().create_time()
    assert StartupTimer(clock=seconds).end_phase("imports") == pytest.approx(1000.0)


def test_a_clock_that_is_set_back_exports_no_negative_time() -> None:
    seconds = Seconds()
    clock = StartupTimer(1000.0, clock=seconds)
    seconds.now -= 60
    clock.end_phase("imports")
    assert clock.phases["imports"] == 0.0


@pytest.fixture
def loop() -> Iterator[Engine]:
    engine = make_engine()
    engine.start()
    yield engine
    engine.close()


def test_one_picture_per_size(loop: Engine) -> None:
    took = generate_one_per_size(loop, *demo_networks("lightning"), [256, 128, 256])
    assert list(took) == [128, 256]
    assert all(seconds > 0 for seconds in took.values())
    assert loop.load()[:2] == (0, 0)


def test_a_size_that_fails_ends_the_warm_up(loop: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no kernel image is available at /usr/lib/libcuda.so")

    variant, controlnet = demo_networks("lightning")
    monkeypatch.setattr("runners.engine.engine.predict_noise", broken)
    with pytest.raises(WarmUpError, match="the warm-up at 128 x 128 failed: internal error"):
        generate_one_per_size(loop, variant, controlnet, [128])


def test_batch_that_does_not_fit_bounds_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def small_card(samples: Sequence[Sample], device: Device) -> list[torch.Tensor]:
        rows = sum(sample.batch_rows for sample in samples)
        seen.append(rows)
        if rows > 1:
            raise torch.OutOfMemoryError
        return predict_noise(samples, device)

    monkeypatch.setattr(runners.server.warmup, "predict_noise", small_card)
    cost = CostModel()
    warm_up(*demo_networks("base"), DEVICE, cost)
    assert cost.max_batch_rows == 1
    assert 2 in seen
    assert cost.seconds("base", "full", 256 * 256, 1, 1) > 0


def test_a_cancelled_warm_up_picture_is_left_out(
    loop: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = loop.submit

    def submit_and_cancel(job: Any, emit: Callable[[Any], None]) -> None:
        held, cancelled = threading.Event(), threading.Event()

        def hold() -> None:
            held.set()
            assert cancelled.wait(60)

        # The device is held up, so that the picture does not end first.
        loop.run_on_device_thread(hold)
        assert held.wait(60)
        submit(job, emit)
        loop.cancel(CancelCommand(request_id=job.request_id))
        cancelled.set()

    monkeypatch.setattr(loop, "submit", submit_and_cancel)
    assert generate_one_per_size(loop, *demo_networks("lightning"), [128]) == {}


class FullInventory:
    """A store that holds two variants and a ControlNet, without files."""

    is_fetching = False

    def __init__(self) -> None:
        self.inventory = Inventory(
            models={"lightning": _ENTRY, "base": _ENTRY},
            controlnets={"sdxl_small": _ENTRY},
            loras=dict.fromkeys(("drone", "experimance", "of no era"), _ENTRY),
        )


_ENTRY: Any = object()


class LoadedModels:
    """Weights that are there as soon as they are asked for."""

    def __init__(self, *_: Any) -> None:
        self.errors: dict[str, str] = {}
        self.loras: list[str] = []
        self.variants: dict[str, SdxlModel] = {}
        self.controlnets: dict[str, ControlNet] = {}
        self.resident_bytes: dict[str, int] = {}
        self.lora_modes: dict[str, str] = {}
        self.eviction_blocked = False

    def touch(
        self, model: str, controlnet: str, loras: Sequence[str] = ()
    ) -> tuple[SdxlModel | None, ControlNet | None]:
        return self.variants.get(model), self.controlnets.get(controlnet)

    def load_variant(self, name: str, beside: Sequence[str] = ()) -> SdxlModel:
        if name == "absent":
            raise LoadError("model absent is not in the model store")
        return self.variants.setdefault(name, demo_networks(name)[0])

    def load_controlnet(self, name: str, beside: Sequence[str] = ()) -> ControlNet:
        return self.controlnets.setdefault(name, demo_networks("lightning")[1])

    def load_loras(self, model: str, names: Sequence[str], beside: Sequence[str] = ()) -> None:
        self.loras += names
        if "experimance" in names:
            raise LoadError("lora experimance is damaged")


@pytest.fixture
def demo_app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., RunnerApp]]:
    """Hosts on the demo set that have not begun their start."""
    hosts = []
    monkeypatch.setattr("runners.server.app.LiveInventory", lambda *_: FullInventory())
    monkeypatch.setattr("runners.server.device_worker.ModelCache", LoadedModels)

    def make(clock: StartupTimer | None = None, **settings: Any) -> RunnerApp:
        clock = clock or StartupTimer(time.time())
        host = RunnerApp(demo_catalog(), Settings(**settings), [DEVICE], clock)
        for worker in host.pool.workers:
            worker.engine.start()
        hosts.append(host)
        return host

    yield make
    for host in hosts:
        host.close()


def test_ready_line_is_printed_last(
    demo_app: Callable[..., RunnerApp], capsys: pytest.CaptureFixture[str]
) -> None:
    clock = StartupTimer(time.time())
    host = demo_app(clock)
    assert host.status().state == "loading_models"
    host.boot()
    assert host.status().state == "ready"
    assert list(clock.phases) == ["load", "warm_up", "ready"]
    lines = capsys.readouterr().out.splitlines()
    assert lines.count(READY_LINE) == 1
    assert lines[-1] == READY_LINE


def test_loras_of_eras_are_read_before_the_first_request(
    demo_app: Callable[..., RunnerApp],
) -> None:
    host = demo_app()
    host.boot()
    (worker,) = host.pool.workers
    cache: Any = worker.model_cache
    assert cache.loras == ["drone", "experimance"]
    assert host.status().state == "ready", "one that fails keeps no request without it waiting"


@pytest.mark.parametrize(("what", "state"), [
    ("lora drone", "ready"), ("model hyper", "ready"), ("fetch", "ready"),
    ("model lightning", "degraded"), ("controlnet sdxl_small", "degraded"),
])  # fmt: skip
def test_status_is_ready_while_the_default_variant_is_served(
    what: str, state: str, demo_app: Callable[..., RunnerApp]
) -> None:
    host = demo_app()
    host.boot()
    (worker,) = host.pool.workers
    cache: Any = worker.model_cache
    cache.errors[what] = "broken"
    assert host.status().state == state
    assert host.status().load_errors == {what: "broken"}


def test_failed_warm_up_prevents_readiness(
    demo_app: Callable[..., RunnerApp],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("runners.engine.output_stage.start_decode", broken)
    host = demo_app()
    host.boot()
    status = host.status()
    assert status.state == "error"
    assert status.startup_error == "the warm-up at 256 x 256 failed: internal error"
    assert READY_LINE not in capsys.readouterr().out


def test_unloadable_variant_is_reported(demo_app: Callable[..., RunnerApp]) -> None:
    host = demo_app(preload_model="absent")
    host.boot()
    assert host.status().startup_error == "model absent is not in the model store"


async def test_a_runner_that_does_not_answer_yet_is_not_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def silent(request: Request) -> Response:
        raise TimeoutError

    monkeypatch.delenv("API_TOKEN", raising=False)
    app = ApiMiddleware(Starlette(routes=[Route("/readyz", silent), Route("/x", silent)]))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as web:
        answer = await web.get("/readyz")
        assert (answer.status_code, answer.json()["error"]) == (503, "not_ready")
        assert answer.headers["Retry-After"] == "1"
        assert (await web.get("/x")).status_code == 500
