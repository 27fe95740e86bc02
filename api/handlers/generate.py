"""Handler of the generation routes: resolve, decode, generate, respond."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace

import structlog
from msgspec import structs
from starlette.requests import Request
from starlette.responses import Response

from api.errors import ApiError, Internal
from api.handlers.prepare import PreparedJob, RequestPreparer
from api.handlers.resolve import RequestResolver
from api.handlers.sse import format_event, format_sse_event
from api.http.media_types import preferred_image_type
from api.request_metrics import RequestRecorder
from api.runner_client import RunnerClient
from api.schemas.requests import GenerateRequest
from api.schemas.responses import GenerateResponse, Metadata
from common.protocol import CancelCommand, JobDone

log = structlog.get_logger(__name__)

_MEDIA_TYPES = {"image/jpeg": "jpeg", "image/png": "png", "image/webp": "webp"}


class GenerateHandler:
    """Handler of requests for images."""

    def __init__(
        self, resolver: RequestResolver, gateway: RunnerClient, preparations: RequestPreparer
    ) -> None:
        self._resolver = resolver
        self._gateway = gateway
        self._preparations = preparations

    async def answer(self, request: GenerateRequest, http: Request) -> Response | GenerateResponse:
        """Return the images as JSON, the first as a file if the client accepts one, or an error."""
        request_id = _bind_request_id(request, http)
        account: RequestRecorder = http.state.account
        return await account.run_and_record(self._answer(request, http, request_id), http)

    async def _answer(
        self, request: GenerateRequest, http: Request, request_id: str
    ) -> Response | GenerateResponse:
        arrived = time.monotonic()
        account: RequestRecorder = http.state.account
        media_type = preferred_image_type(http, _MEDIA_TYPES)
        resolved = self._resolver.resolve(request, request_id, arrived, False, http.state.owner)
        if media_type is not None:
            job = structs.replace(resolved.job, output_format=_MEDIA_TYPES[media_type])
            resolved = replace(resolved, job=job)
        account.set_model(resolved.job.model)
        prepared = await self._preparations.prepare(
            request, resolved, account.traceparent, http.is_disconnected
        )
        job = prepared.job
        done = await self._gateway.paint(job, http.is_disconnected)
        log.info("painted", model=job.model, seconds=round(time.monotonic() - arrived, 3))
        if media_type is not None:
            return _build_image_response(done, request_id)
        return build_generate_response(done, prepared, time.monotonic() - arrived)

    async def stream(self, request: GenerateRequest, http: Request) -> AsyncGenerator[str, None]:
        """Yield server-sent events: queued, started, step …, then done or error.

        Raises:
            ApiError: the request is rejected before its first event.
        """
        arrived = time.monotonic()
        request_id = _bind_request_id(request, http)
        account: RequestRecorder = http.state.account
        resolved = self._resolver.resolve(request, request_id, arrived, True, http.state.owner)
        account.set_model(resolved.job.model)
        prepared = await self._preparations.prepare(
            request, resolved, account.traceparent, http.is_disconnected
        )
        job = prepared.job
        events = self._gateway.events(job)
        try:
            async for event in events:
                if isinstance(event, JobDone):
                    account.mark_success()
                    seconds = time.monotonic() - arrived
                    log.info("painted", model=job.model, seconds=round(seconds, 3))
                    answer = build_generate_response(event, prepared, seconds)
                    yield format_event("done", answer.model_dump_json())
                else:
                    yield format_sse_event(event)
        except Exception as error:
            if not isinstance(error, ApiError):
                log.exception("stream failed")
            http.state.error = error if isinstance(error, ApiError) else Internal()
            account.mark_failure(http.state.error.code)
            body = http.state.error.response(request_id).body
            yield format_event("error", bytes(body).decode())
        finally:
            await events.aclose()

    async def cancel(self, order: CancelCommand) -> tuple[str, ...]:
        """Cancel the requests that the command matches, in preparation or in the runner.

        Raises:
            Unavailable: the runner was lost.
        """
        ids = self._preparations.cancel(order)
        return tuple(dict.fromkeys((*ids, *await self._gateway.cancel(order))))


def build_generate_response(
    done: JobDone, prepared: PreparedJob, seconds: float
) -> GenerateResponse:
    """Return the JSON response for finished images.

    Args:
        done: the runner's result; its parameters describe a joined request correctly.
        prepared: the request's own job, with its warnings and depth map.
        seconds: duration from arrival to response.
    """
    images = [base64.b64encode(image).decode("ascii") for image in done.images]
    depth = prepared.depth_png and base64.b64encode(prepared.depth_png).decode("ascii")
    used = done.parameters
    return GenerateResponse(
        image_b64=images[0],
        images_b64=images,
        depth_map_b64=depth,
        generation_time=round(seconds, 4),
        seed_used=used["seed"],
        model_used=used["model"],
        request_id=prepared.job.request_id,
        metadata=Metadata(
            **{name: used[name] for name in Metadata.model_fields if name in used}
            | {
                "scheduler": done.scheduler,
                "timings": _round_timings(done.timings),
                "warnings": [*prepared.warnings, *done.warnings],
            }
        ),
    )


def _bind_request_id(request: GenerateRequest, http: Request) -> str:
    """Return the request's own id, else that of its HTTP request; bind it to the logs."""
    http.state.id = request.request_id or http.state.id
    structlog.contextvars.bind_contextvars(request_id=http.state.id)
    return str(http.state.id)


def _build_image_response(done: JobDone, request_id: str) -> Response:
    # A client that joined another request gets the format of that request.
    headers = {
        "X-Seed": str(done.parameters["seed"]),
        "X-Model": done.parameters["model"],
        "X-Request-Id": request_id,
        "X-Timings": json.dumps(_round_timings(done.timings)),
    }
    return Response(done.images[0], media_type=f"image/{done.output_format}", headers=headers)


def _round_timings(timings: Mapping[str, float]) -> dict[str, float]:
    return {name: round(seconds, 4) for name, seconds in timings.items()}
