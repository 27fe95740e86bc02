"""What the painting routes do: resolve, decode, paint, answer."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace

import structlog
from starlette.requests import Request
from starlette.responses import Response

from api.acceptance import accepted_picture
from api.account import Account
from api.errors import ApiError, Internal
from api.gateway import Gateway
from api.preparation import Preparations, Prepared
from api.requests import GenerateRequest
from api.resolve import Resolver
from api.responses import GenerateResponse, Metadata
from runners.messages import CancelOrder, Done, Queued, Started, Step

log = structlog.get_logger(__name__)

_MEDIA_TYPES = {"image/jpeg": "jpeg", "image/png": "png", "image/webp": "webp"}


class Painter:
    """Answers requests for pictures."""

    def __init__(self, resolver: Resolver, gateway: Gateway, preparations: Preparations) -> None:
        self._resolver = resolver
        self._gateway = gateway
        self._preparations = preparations

    async def answer(self, request: GenerateRequest, http: Request) -> Response | GenerateResponse:
        """The picture as JSON, as itself if the caller accepts a picture type, or an error."""
        request_id = _identified(request, http)
        account: Account = http.state.account
        return await account.settle(self._answer(request, http, request_id), request_id)

    async def _answer(
        self, request: GenerateRequest, http: Request, request_id: str
    ) -> Response | GenerateResponse:
        arrived = time.monotonic()
        account: Account = http.state.account
        media_type = accepted_picture(http, _MEDIA_TYPES)
        resolved = self._resolver.resolve(request, request_id, arrived, False, http.state.owner)
        if media_type is not None:
            painted_as = replace(resolved.job, output_format=_MEDIA_TYPES[media_type])
            resolved = replace(resolved, job=painted_as)
        account.resolved(resolved.job.model)
        prepared = await self._preparations.prepare(
            request, resolved, account.traceparent, http.is_disconnected
        )
        job = prepared.job
        done = await self._gateway.paint(job, http.is_disconnected)
        log.info("painted", model=job.model, seconds=round(time.monotonic() - arrived, 3))
        if media_type is not None:
            return _picture(done, request_id)
        return response_of(done, prepared, time.monotonic() - arrived)

    async def stream(self, request: GenerateRequest, http: Request) -> AsyncGenerator[str, None]:
        """Server-sent events: queued, started, step …, and done or error.

        Raises:
            ApiError: the request cannot be painted at all; only before the first event.
        """
        arrived = time.monotonic()
        request_id = _identified(request, http)
        account: Account = http.state.account
        resolved = self._resolver.resolve(request, request_id, arrived, True, http.state.owner)
        account.resolved(resolved.job.model)
        prepared = await self._preparations.prepare(
            request, resolved, account.traceparent, http.is_disconnected
        )
        job = prepared.job
        events = self._gateway.events(job)
        try:
            async for event in events:
                if isinstance(event, Done):
                    account.succeeded()
                    seconds = time.monotonic() - arrived
                    log.info("painted", model=job.model, seconds=round(seconds, 3))
                    answer = response_of(event, prepared, seconds)
                    yield _event("done", answer.model_dump_json())
                else:
                    yield progress_event(event)
        except ApiError as error:
            log.info("refused", error=error.code, message=error.message)
            account.failed(error.code)
            yield _event("error", bytes(error.response(request_id).body).decode())
        except Exception:
            log.exception("stream failed")
            account.failed(Internal.code)
            yield _event("error", bytes(Internal().response(request_id).body).decode())
        finally:
            await events.aclose()

    async def cancel(self, order: CancelOrder) -> tuple[str, ...]:
        """End what the order names, whether its depth map is still being decoded or it runs."""
        ids = self._preparations.cancel(order)
        return tuple(dict.fromkeys((*ids, *await self._gateway.cancel(order))))


def response_of(done: Done, prepared: Prepared, seconds: float) -> GenerateResponse:
    """The JSON answer for finished pictures; what was painted is the runner's to say."""
    images = [base64.b64encode(image).decode("ascii") for image in done.images]
    depth = prepared.depth_png and base64.b64encode(prepared.depth_png).decode("ascii")
    painted = done.parameters
    return GenerateResponse(
        image_b64=images[0],
        images_b64=images,
        depth_map_b64=depth,
        generation_time=round(seconds, 4),
        seed_used=painted["seed"],
        model_used=painted["model"],
        request_id=prepared.job.request_id,
        metadata=Metadata(
            **{name: painted[name] for name in Metadata.model_fields if name in painted}
            | {
                "scheduler": done.scheduler,
                "timings": _rounded(done.timings),
                "warnings": [*prepared.warnings, *done.warnings],
            }
        ),
    )


def _identified(request: GenerateRequest, http: Request) -> str:
    """The request's id: its own, else the one that its HTTP request has; logs carry it."""
    http.state.id = request.request_id or http.state.id
    structlog.contextvars.bind_contextvars(request_id=http.state.id)
    return str(http.state.id)


def _picture(done: Done, request_id: str) -> Response:
    # A caller who joined another's request gets that request's format.
    headers = {
        "X-Seed": str(done.parameters["seed"]),
        "X-Model": done.parameters["model"],
        "X-Request-Id": request_id,
        "X-Timings": json.dumps(_rounded(done.timings)),
    }
    return Response(done.images[0], media_type=f"image/{done.output_format}", headers=headers)


def _rounded(timings: Mapping[str, float]) -> dict[str, float]:
    return {name: round(seconds, 4) for name, seconds in timings.items()}


def progress_event(event: object) -> str:
    """An event of a stream that is not its last, as it crosses the wire."""
    match event:
        case Queued(position):
            return _event("queued", json.dumps({"position": position}))
        case Started():
            return _event("started", "{}")
        case Step(index, total, preview):
            content: dict[str, object] = {"step": index, "steps": total}
            if preview:
                content["preview_b64"] = base64.b64encode(preview).decode("ascii")
            return _event("step", json.dumps(content))
        case _:
            raise TypeError(f"{type(event).__name__} is not progress")


def _event(name: str, data: str) -> str:
    return f"event: {name}\ndata: {data}\n\n"
