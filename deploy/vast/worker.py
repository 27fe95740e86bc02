"""The serverless worker: stands between vast.ai's router and the service on the same instance.

python -m deploy.vast.worker      in its own environment: deploy/vast/worker-requirements.txt

vast.ai's package does the work: it waits for the service's ready line, measures how much the GPU
gets done, reports load, checks signatures and forwards requests. This file tells it what of the
service it needs to know. Settings come from the environment: MODEL_SERVER_URL, MODEL_LOG, CATALOG,
API_TOKEN, LOG_LEVEL, and what the platform sets.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

from aiohttp import ClientError, ClientSession, ClientTimeout, web
from vastai import BenchmarkConfig, HandlerConfig, LogActionConfig, Worker, WorkerConfig

from common.lifecycle import CONFIGURATION_ERROR, READY_LINE
from common.log_text import escape_records
from deploy.vast import proxy as relay
from deploy.vast.request_cost import Workload

log = logging.getLogger(__name__)

MAX_QUEUE_SECONDS = 10.0
"""A caller of the installation waits 12 s; who would wait longer than this is sent elsewhere."""

_HEALTH = "/healthcheck"
_UNSIGNED_ROUTES = (
    "session_create_handler",
    "session_end_handler",
    "session_get_handler",
    "session_health_handler",
    "pyworker_update_handler",
)
# Enough at once to keep the device busy while pictures are encoded and sent; 13 pictures in all,
# so that measuring takes seconds.
_BENCHMARK_AT_ONCE, _BENCHMARK_RUNS = 4, 3
_SILENCE_SECONDS = 300.0
_POLL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What the worker must know of its instance."""

    url: str
    log_file: str
    catalog: str
    token: str | None
    log_level: str

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Self:
        """From environment variables.

        Raises:
            ValueError: one is missing or not accepted; the message names it.
        """
        url = environment.get("MODEL_SERVER_URL", "http://127.0.0.1:5001")
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or parts.hostname is None or parts.port is None:
            raise ValueError(f"MODEL_SERVER_URL: {url!r} is not http(s)://HOST:PORT")
        missing = [name for name in ("MODEL_LOG", "CATALOG") if not environment.get(name)]
        if missing:
            raise ValueError(f"{', '.join(missing)}: not set")
        level = environment.get("LOG_LEVEL", "INFO").upper()
        if level not in logging.getLevelNamesMapping():
            raise ValueError(f"LOG_LEVEL: {level!r} is none of DEBUG, INFO, WARNING, ERROR")
        tokens = (token.strip() for token in environment.get("API_TOKEN", "").split(","))
        return cls(
            url=f"{parts.scheme}://{parts.netloc}",
            log_file=environment["MODEL_LOG"],
            catalog=environment["CATALOG"],
            # Any of several opens the service.
            token=next((token for token in tokens if token), None),
            log_level=level,
        )


def configuration(settings: Settings, workload: Workload) -> WorkerConfig:
    """What vast.ai's package is told.

    Requests go to the service side by side: its engine batches them, orders them and knows when a
    caller hangs up, so a second queue in front of it could only be in the way.
    """
    server, _, port = settings.url.rpartition(":")
    painting: dict[str, Any] = {
        "allow_parallel_requests": True,
        "max_queue_time": MAX_QUEUE_SECONDS,
        "request_parser": relay.extract_payload,
        "workload_calculator": workload.tflop,
        "response_generator": relay.forward_response,
    }
    benchmark = BenchmarkConfig(
        generator=benchmark_request, runs=_BENCHMARK_RUNS, concurrency=_BENCHMARK_AT_ONCE
    )
    return WorkerConfig(
        model_server_url=server,
        model_server_port=int(port),
        model_log_file=settings.log_file,
        model_healthcheck_url=_HEALTH,
        log_action_config=LogActionConfig(on_load=[READY_LINE]),
        handlers=[
            HandlerConfig(route="/generate", benchmark_config=benchmark, **painting),
            HandlerConfig(route="/generate_stream", **painting),
            # Less than a step of a picture.
            HandlerConfig(
                route="/estimate_depth", **{**painting, "workload_calculator": lambda _: 0.0}
            ),
            # It loads beside the painting and takes nothing from it, however long the queue is.
            HandlerConfig(
                route="/preload",
                allow_parallel_requests=True,
                max_queue_time=None,
                workload_calculator=lambda _: 0.0,
                response_generator=relay.forward_response,
            ),
        ],
    )


def benchmark_request() -> dict[str, Any]:
    """An ordinary request: the default variant as the catalog has it, a prompt not yet seen."""
    seed = random.randrange(2**31)
    return {
        "prompt": f"aerial photography, hills and valleys, late afternoon sunlight, {seed}",
        "mock_depth": True,
        "seed": seed,
    }


async def serve(settings: Settings) -> None:
    """Run the worker until it is stopped."""
    worker = Worker(configuration(settings, Workload.of_catalog(settings.catalog)))
    # The package sets DEBUG, which prints its report every second.
    logging.getLogger().setLevel(settings.log_level)
    # It logs what requests say, signatures that are none above all.
    escape_records()
    backend = worker.backend
    backend.session = relay.service_session(settings.url, settings.token)
    for name in _UNSIGNED_ROUTES:
        if not hasattr(backend, name):
            raise AttributeError(f"vastai's backend has no {name} any more")
        setattr(backend, name, relay.not_found)
    # The package's own check, which it makes too late.
    is_signed = backend._Backend__check_signature
    worker.routes = [
        web.post(route.path, relay.wrap_handler(route.handler, is_signed))
        for route in worker.routes
    ]
    async with backend.session, asyncio.TaskGroup() as tasks:
        tasks.create_task(worker.run_async())
        tasks.create_task(_report_failed_start(settings.url, backend.backend_errored))


async def _report_failed_start(url: str, report: Any) -> None:
    """Tell the platform if the service cannot start; until it does, the package sees no failure.

    A line of the log cannot tell it: the package looks for words anywhere in a line, and lines
    hold words of requests.
    """
    heard = time.monotonic()
    async with ClientSession(url, timeout=ClientTimeout(total=10)) as session:
        while time.monotonic() - heard < _SILENCE_SECONDS:
            try:
                async with session.get(_HEALTH) as response:
                    health = await response.json()
                heard = time.monotonic()
                if health["ready_for_inference"]:
                    return
                if health["status"] == "error":
                    report(f"the service cannot start: {health['startup_status']['startup_error']}")
                    return
            except (ClientError, TimeoutError, ValueError, KeyError) as error:
                log.debug("no health yet: %r", error)
            await asyncio.sleep(_POLL_SECONDS)
    report(f"the service has not answered for {_SILENCE_SECONDS:.0f} s: see its log")


def main() -> int:
    """Run the worker; returns the exit status, 78 where a setting is wrong."""
    try:
        settings = Settings.read(os.environ)
        Workload.of_catalog(settings.catalog)
    except (OSError, ValueError, KeyError) as error:
        print(f"cannot start: {error}", file=sys.stderr)
        return CONFIGURATION_ERROR
    asyncio.run(serve(settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
