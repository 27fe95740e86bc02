"""Serverless worker: a proxy between vast.ai's router and the service on the same instance.

python -m deploy.vast.worker      in its own environment: deploy/vast/worker-requirements.txt

vast.ai's package waits for the service's ready line, benchmarks the GPU, reports load, checks
signatures and forwards requests. This module configures it for the service. Settings come from the
environment: MODEL_SERVER_URL, MODEL_LOG, CATALOG, API_TOKEN, LOG_LEVEL, and the platform's own
variables.
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
"""Seconds of queue beyond which the router uses another worker; callers time out after 12 s."""

_HEALTH = "/healthcheck"
_UNSIGNED_ROUTES = (
    "session_create_handler",
    "session_end_handler",
    "session_get_handler",
    "session_health_handler",
    "pyworker_update_handler",
)
# Enough parallel requests to keep the device busy while images are encoded and sent. With 13 images
# in all the benchmark takes seconds.
_BENCHMARK_AT_ONCE, _BENCHMARK_RUNS = 4, 3
_SILENCE_SECONDS = 300.0
_POLL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the worker."""

    url: str
    log_file: str
    catalog: str
    token: str | None
    log_level: str

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Self:
        """Read the settings from environment variables.

        Raises:
            ValueError: A variable is missing or invalid; the message names it.
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
            # The service accepts any of its tokens.
            token=next((token for token in tokens if token), None),
            log_level=level,
        )


def configuration(settings: Settings, workload: Workload) -> WorkerConfig:
    """Return the configuration of vast.ai's package.

    Requests go to the service in parallel, because its engine batches and orders them and cancels
    those of disconnected callers. A second queue would only add latency.
    """
    server, _, port = settings.url.rpartition(":")
    generation: dict[str, Any] = {
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
            HandlerConfig(route="/generate", benchmark_config=benchmark, **generation),
            HandlerConfig(route="/generate_stream", **generation),
            # Cheaper than one denoising step.
            HandlerConfig(
                route="/estimate_depth", **{**generation, "workload_calculator": lambda _: 0.0}
            ),
            # A preload runs in parallel with generation, so the queue's length does not matter.
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
    """Return a typical request: the default variant, catalog defaults, a new prompt."""
    seed = random.randrange(2**31)
    return {
        "prompt": f"aerial photography, hills and valleys, late afternoon sunlight, {seed}",
        "mock_depth": True,
        "seed": seed,
    }


async def serve(settings: Settings) -> None:
    """Run the worker until it is stopped.

    Raises:
        AttributeError: The installed vastai package lacks a route that must be disabled.
    """
    worker = Worker(configuration(settings, Workload.of_catalog(settings.catalog)))
    # The package sets DEBUG, which logs a report every second.
    logging.getLogger().setLevel(settings.log_level)
    # The package logs text of requests, such as malformed signatures.
    escape_records()
    backend = worker.backend
    backend.session = relay.service_session(settings.url, settings.token)
    for name in _UNSIGNED_ROUTES:
        if not hasattr(backend, name):
            raise AttributeError(f"vastai's backend has no {name} any more")
        setattr(backend, name, relay.not_found)
    # The package's own check, which is private, runs only after it has parsed the body.
    is_signed = backend._Backend__check_signature  # noqa: SLF001
    worker.routes = [
        web.post(route.path, relay.wrap_handler(route.handler, is_signed))
        for route in worker.routes
    ]
    async with backend.session, asyncio.TaskGroup() as tasks:
        tasks.create_task(worker.run_async())
        tasks.create_task(_report_failed_start(settings.url, backend.backend_errored))


async def _report_failed_start(url: str, report: Any) -> None:
    """Report a failed start of the service to the platform, which otherwise does not detect it.

    The package's log matching is unsuitable: it finds words anywhere in a line, and log lines
    contain text of requests.
    """
    last_answer = time.monotonic()
    async with ClientSession(url, timeout=ClientTimeout(total=10)) as session:
        while time.monotonic() - last_answer < _SILENCE_SECONDS:
            try:
                async with session.get(_HEALTH) as response:
                    health = await response.json()
                last_answer = time.monotonic()
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
    """Run the worker; return the exit status, 78 for an invalid setting."""
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
