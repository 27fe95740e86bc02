"""What the painting routes do: resolve, decode, paint, answer."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass, replace

import structlog
from starlette.requests import Request
from starlette.responses import Response

from api.account import Account
from api.errors import ApiError, Conflict, Internal, Overloaded
from api.gateway import Gateway
from api.images import decode_depth, mock_depth
from api.requests import GenerateRequest
from api.resolve import Resolved, Resolver, parameters
from api.responses import GenerateResponse, Metadata
from runners.messages import CancelOrder, Done, PaintJob, Queued, Started, Step

log = structlog.get_logger(__name__)

_MEDIA_TYPES = {"image/jpeg": "jpeg", "image/png": "png", "image/webp": "webp"}
_DECODERS = 2
_STATUS_AGE_SECONDS = 0.1


@dataclass(slots=True, eq=False)
class _Preparation:
    """A job that the runner does not know yet."""

    job: PaintJob
    cancelled: bool = False


class Painter:
    """Answers requests for pictures."""

    def __init__(self, resolver: Resolver, gateway: Gateway) -> None:
        self._resolver = resolver
        self._gateway = gateway
        # Decoding a large picture takes tens of megabytes; two at once keep both cores busy.
        self._decoding = asyncio.Semaphore(_DECODERS)
        self._preparations: list[_Preparation] = []

    async def answer(self, request: GenerateRequest, http: Request) -> Response | GenerateResponse:
        """The picture as JSON, as itself if the caller accepts a picture type, or an error."""
        arrived = time.monotonic()
        request_id = _identified(request, http)
        account: Account = http.state.account
        try:
            media_type = _accepted_picture(http)
            resolved = self._resolver.resolve(request, request_id, arrived, previews=False)
            account.resolved(resolved.job.model)
            job = await self._with_depth(request, resolved, account.traceparent)
            if media_type is not None:
                job = replace(job, output_format=_MEDIA_TYPES[media_type])
            done = await self._gateway.paint(job, http.is_disconnected)
        except ApiError as error:
            log.info("refused", error=error.code, message=error.message)
            account.failed(error.code)
            return error.response(request_id)
        except Exception:
            log.exception("request failed")
            account.failed(Internal.code)
            return Internal().response(request_id)
        account.succeeded()
        log.info("painted", model=job.model, seconds=round(time.monotonic() - arrived, 3))
        if media_type is not None:
            return _picture(done, request_id)
        return response_of(done, resolved, time.monotonic() - arrived)

    async def stream(self, request: GenerateRequest, http: Request) -> AsyncGenerator[str, None]:
        """Server-sent events: queued, started, step …, and done or error.

        Raises:
            ApiError: the request cannot be painted at all; only before the first event.
        """
        arrived = time.monotonic()
        request_id = _identified(request, http)
        account: Account = http.state.account
        resolved = self._resolver.resolve(request, request_id, arrived, previews=True)
        account.resolved(resolved.job.model)
        job = await self._with_depth(request, resolved, account.traceparent)
        events = self._gateway.events(job)
        try:
            async for event in events:
                if isinstance(event, Done):
                    account.succeeded()
                    seconds = time.monotonic() - arrived
                    log.info("painted", model=job.model, seconds=round(seconds, 3))
                    answer = response_of(event, resolved, seconds)
                    yield _event("done", answer.model_dump_json())
                else:
                    yield _progress(event)
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
        ids = []
        for preparation in self._preparations:
            if order.names(preparation.job):
                preparation.cancelled = True
                ids.append(preparation.job.request_id)
        return tuple(dict.fromkeys((*ids, *await self._gateway.cancel(order))))

    @contextlib.contextmanager
    def _preparing(self, job: PaintJob) -> Iterator[_Preparation]:
        preparation = _Preparation(job)
        self._preparations.append(preparation)
        try:
            yield preparation
        finally:
            self._preparations.remove(preparation)

    async def _with_depth(
        self, request: GenerateRequest, resolved: Resolved, traceparent: str
    ) -> PaintJob:
        job = resolved.job
        size = (job.width, job.height)
        with self._preparing(job) as preparation:
            await self._refuse_if_full(request)
            async with self._decoding:
                if request.depth_map_b64 is not None:
                    depth = await asyncio.to_thread(decode_depth, request.depth_map_b64, *size)
                else:
                    depth = await asyncio.to_thread(mock_depth, *size)
        if preparation.cancelled:
            raise Conflict("the request was cancelled", code="cancelled")
        return replace(
            job,
            depth=depth,
            parameters=parameters(resolved),
            embed_parameters=request.embed_parameters,
            traceparent=traceparent,
        )

    async def _refuse_if_full(self, request: GenerateRequest) -> None:
        """Spare decoding what the runner would refuse; that has the last word.

        A request with an id may join another, one of a session may take another's place.
        """
        if request.request_id is not None or request.session is not None:
            return
        status = await self._gateway.status(max_age=_STATUS_AGE_SECONDS)
        if status.full is not None:
            message = f"{status.waiting} requests are waiting"
            raise Overloaded(message, retry_after=status.full)


def response_of(done: Done, resolved: Resolved, seconds: float) -> GenerateResponse:
    """The JSON answer for finished pictures; what was painted is the runner's to say."""
    images = [base64.b64encode(image).decode("ascii") for image in done.images]
    painted = done.parameters
    return GenerateResponse(
        image_b64=images[0],
        images_b64=images,
        generation_time=round(seconds, 4),
        seed_used=painted["seed"],
        model_used=painted["model"],
        request_id=resolved.job.request_id,
        metadata=Metadata(
            **{name: painted[name] for name in Metadata.model_fields if name in painted}
            | {
                "scheduler": done.scheduler,
                "timings": _rounded(done.timings),
                "warnings": [*resolved.warnings, *done.warnings],
            }
        ),
    )


def _identified(request: GenerateRequest, http: Request) -> str:
    """The request's id: its own, else the one that its HTTP request has; logs carry it."""
    http.state.id = request.request_id or http.state.id
    structlog.contextvars.bind_contextvars(request_id=http.state.id)
    return str(http.state.id)


def _accepted_picture(http: Request) -> str | None:
    """The first picture type that the Accept header names before JSON or anything."""
    for item in http.headers.get("accept", "").split(","):
        media_type = item.partition(";")[0].strip().lower()
        if media_type in _MEDIA_TYPES:
            return media_type
        if media_type in {"application/json", "*/*"}:
            return None
    return None


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


def _progress(event: object) -> str:
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
