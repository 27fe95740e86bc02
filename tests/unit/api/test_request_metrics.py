"""Image requests, counted by outcome."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from api.errors import CODES_BY_STATUS, ApiError, Overloaded
from api.http.middleware import ApiMiddleware, current_request
from api.request_metrics import REQUESTS, initialize_labels
from api.runner_client import RunnerClient
from api.runner_gauges import render_runner_gauges
from common.framing import pack
from common.protocol import RunnerStatus
from tests.support.metric_delta import Growth
from tests.support.runner.fake_runner import JOB, FakeRunner, stays
from tests.support.virtual_time import in_virtual_time


async def paint(request: Request) -> Response:
    """Ends as the query says."""
    account = current_request().state.account
    end = request.query_params.get("end")
    if end == "invalid":
        detail = [{"type": "missing", "loc": ["prompt"], "msg": "Field required"}]
        return JSONResponse({"detail": detail}, status_code=400)
    account.set_model("hyper")
    if end == "crash":
        raise RuntimeError("secret")
    if end == "overloaded":
        account.mark_failure("overloaded")
        return Overloaded("wait", retry_after=1).response("r")
    if end == "nothing":
        return JSONResponse({})
    account.mark_success()
    return JSONResponse({})


async def paint_stream(_: Request) -> Response:
    account = current_request().state.account
    account.set_model("hyper")

    async def events() -> AsyncIterator[bytes]:
        yield b"event: started\n\n"
        account.mark_success()
        yield b"event: done\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


@pytest.fixture
def caller() -> httpx.AsyncClient:
    routes = [
        Route("/generate", paint, methods=["GET", "POST"]),
        Route("/generate_stream", paint_stream, methods=["POST"]),
        Route("/healthcheck", lambda _: JSONResponse({}), methods=["POST"]),
    ]
    app = ApiMiddleware(Starlette(routes=routes))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


@pytest.mark.parametrize(
    ("end", "outcome", "model"),
    [
        ("success", "success", "hyper"),
        ("overloaded", "overloaded", "hyper"),
        ("crash", "internal", "hyper"),
        ("nothing", "cancelled", "hyper"),
        ("invalid", "invalid_request", "none"),
    ],
)
async def test_each_end_is_counted_once(
    caller: httpx.AsyncClient, end: str, outcome: str, model: str
) -> None:
    grown = Growth()
    await caller.post("/generate", params={"end": end})
    assert grown.of("requests_total", outcome=outcome, model=model) == 1
    assert grown.of("request_seconds_count", model="hyper") == (end == "success")
    total = sum(
        grown.of("requests_total", outcome=code, model=name)
        for code in ["success", *(code for codes in CODES_BY_STATUS.values() for code in codes)]
        for name in ("hyper", "none")
    )
    assert total == 1


async def test_a_refused_body_and_a_stream_are_counted(caller: httpx.AsyncClient) -> None:
    grown = Growth()
    answer = await caller.post("/generate", content=b"x", headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415
    assert grown.of("requests_total", outcome="unsupported_media_type", model="none") == 1
    await caller.post("/generate_stream")
    assert grown.of("requests_total", outcome="success", model="hyper") == 1


async def test_other_routes_and_methods_are_not_requests_for_pictures(
    caller: httpx.AsyncClient,
) -> None:
    def total() -> float:
        (family,) = REQUESTS.collect()
        return sum(s.value for s in family.samples if s.name.endswith("_total"))

    before = total()
    await caller.post("/healthcheck")
    await caller.get("/generate", params={"end": "nothing"})
    await caller.post("/nowhere")
    assert total() == before


def test_every_outcome_of_the_contract_begins_at_zero() -> None:
    initialize_labels(["sketch"])
    (family,) = REQUESTS.collect()
    zeros = {
        s.labels["outcome"]
        for s in family.samples
        if s.labels["model"] == "sketch" and s.value == 0 and s.name.endswith("_total")
    }
    assert zeros == {"success", *(code for codes in CODES_BY_STATUS.values() for code in codes)}


async def test_a_lost_runner_is_counted() -> None:
    grown = Growth()
    with pytest.raises(ApiError):
        await RunnerClient(FakeRunner(dies=True)).paint(JOB, stays)
    assert grown.of("runner_lost_total") == 1


@in_virtual_time
async def test_replaced_runner_counts_as_one_restart() -> None:
    class Runner(FakeRunner):
        began = 100.0

        async def status(self) -> bytes:
            if not self.began:
                raise ConnectionRefusedError
            return pack(RunnerStatus("ready", started_at=self.began))

    runner = Runner()
    gateway = RunnerClient(runner)
    grown = Growth()
    for began in (100.0, 100.0, 0.0, 100.0, 0.0, 250.0, 250.0):
        runner.began = began
        await gateway.status()
    assert grown.of("runner_restarts_total") == 1


@in_virtual_time
async def test_recent_status_is_reused() -> None:
    class Runner(FakeRunner):
        asked = 0

        async def status(self) -> bytes:
            self.asked += 1
            return await super().status()

    runner = Runner()
    gateway = RunnerClient(runner)
    assert (await gateway.status(max_age=60)).waiting == 3
    assert (await gateway.status(max_age=60)).waiting == 3
    assert runner.asked == 1
    await asyncio.sleep(61)
    await gateway.status(max_age=60)
    assert runner.asked == 2
    await gateway.status()
    assert runner.asked == 3


def samples(status: RunnerStatus) -> dict[str, float]:
    return {
        sample.name.removeprefix("experimance_")
        + "".join(sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(render_runner_gauges(status))
        for sample in family.samples
    }


def test_a_runner_that_is_gone_has_no_queue_and_is_not_ready() -> None:
    found = samples(RunnerStatus("starting"))
    assert found["ready"] == found["queue_waiting"] == found["queue_running"] == 0
    assert not any(name.startswith("device_") for name in found)


@pytest.mark.parametrize(("state", "ready"), [("ready", 1), ("degraded", 1), ("error", 0)])
def test_the_state_of_a_runner_with_a_gpu(state: str, ready: int) -> None:
    found = samples(
        RunnerStatus(
            state,
            waiting=3,
            running=1,
            estimated_seconds=2.5,
            ram_mb=1500.0,
            gpu_memory={"free_mb": 4_000.0, "total_mb": 24_000.0},
            gpu_utilization=0.97,
            load_errors={"lora drone": "bad"},
            downloads={
                "gs://a": {"status": "downloading", "bytes_downloaded": 4, "total_bytes": 9},
                "hf://b": {"status": "downloading", "bytes_downloaded": 9, "total_bytes": 9},
            },
            resident_bytes={"unet": 5_100_000_000},
        )
    )
    assert found == {
        "ready": ready,
        "queue_waiting": 3,
        "queue_running": 1,
        "queue_estimated_seconds": 2.5,
        "load_errors": 1,
        "downloads_unfinished": 1,
        "runner_memory_bytes": 1.5e9,
        "resident_bytesunet": 5.1e9,
        "device_memory_used_bytes": 20e9,
        "device_memory_total_bytes": 24e9,
        "device_utilization_ratio": 0.97,
    }
