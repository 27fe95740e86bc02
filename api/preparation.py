"""From a resolved request to a whole job: its pictures decoded, its depth estimated."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from api.errors import Conflict, InvalidRequest, Overloaded
from api.gateway import Gateway
from api.images import (
    DepthMap,
    Photograph,
    adjusted_depth,
    decode_depth,
    decode_image,
    encode_depth,
    mock_depth,
)
from api.provenance import parameters
from api.requests import GenerateRequest
from api.resolve import Resolved
from runners.messages import CancelOrder, PaintJob

_DECODERS = 2
_STATUS_AGE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job that the runner can begin with, and what to tell the caller beside the picture.

    `depth_png` is the depth map that was used, where the caller asked for it.
    """

    job: PaintJob
    warnings: tuple[str, ...]
    depth_png: bytes | None = None


@dataclass(slots=True, eq=False)
class _Preparation:
    """A job that the runner does not know yet."""

    job: PaintJob
    cancelled: bool = False


class Preparations:
    """The requests whose pictures are being decoded; they can be cancelled like any other."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        # Decoding a large picture takes tens of megabytes; two at once keep both cores busy.
        self._decoding = asyncio.Semaphore(_DECODERS)
        self._under_way: list[_Preparation] = []

    async def prepare(
        self, request: GenerateRequest, resolved: Resolved, traceparent: str
    ) -> Prepared:
        """Decode the request's pictures, estimate its depth where that is asked for.

        Raises:
            ApiError: a picture that cannot be decoded, a full queue, a failed estimate, or
                cancelled meanwhile.
        """
        job = resolved.job
        if request.embed_inputs and job.output_format != "png":
            raise InvalidRequest.field("embed_inputs", f"needs a PNG, not {job.output_format}")
        with self._noted(job) as preparation:
            await self._refuse_if_full(request)
            photograph = await self._photograph(request, job)
            depth = await self._depth(request, resolved, photograph)
            png = None
            if request.return_depth and depth is not None:
                png = await asyncio.to_thread(encode_depth, depth.pixels, job.width, job.height)
        if preparation.cancelled:
            raise Conflict("the request was cancelled", code="cancelled")
        started_from = photograph if request.strength is not None else None
        used = depth or DepthMap(b"")
        image_digest = photograph.digest if photograph else ""
        whole = replace(
            job,
            depth=used.pixels,
            image=started_from.pixels if started_from else b"",
            parameters=parameters(request, resolved, job, used.digest, image_digest),
            embed_parameters=request.embed_parameters,
            embed_inputs=request.embed_inputs,
            traceparent=traceparent,
        )
        return Prepared(whole, (*resolved.warnings, *used.warnings), png)

    def cancel(self, order: CancelOrder) -> list[str]:
        """End what the order names; returns the request ids."""
        named = [each for each in self._under_way if order.names(each.job)]
        for each in named:
            each.cancelled = True
        return [each.job.request_id for each in named]

    async def _photograph(self, request: GenerateRequest, job: PaintJob) -> Photograph | None:
        if request.image_b64 is None:
            return None
        async with self._decoding:
            return await asyncio.to_thread(decode_image, request.image_b64, job.width, job.height)

    async def _depth(
        self, request: GenerateRequest, resolved: Resolved, photograph: Photograph | None
    ) -> DepthMap | None:
        """The depth map to follow, None where there is none."""
        size = (resolved.job.width, resolved.job.height)
        switches = {"invert": request.invert_depth, "normalize": request.normalize_depth}
        if resolved.depth_estimator is not None:
            assert photograph is not None
            estimated = await self._gateway.estimate(
                resolved.depth_estimator, photograph.pixels, size
            )
            return await asyncio.to_thread(adjusted_depth, estimated, *size, **switches)
        async with self._decoding:
            if request.depth_map_b64 is not None:
                text = request.depth_map_b64
                return await asyncio.to_thread(decode_depth, text, *size, **switches)
            if request.mock_depth:
                return await asyncio.to_thread(mock_depth, *size, **switches)
        return None

    @contextlib.contextmanager
    def _noted(self, job: PaintJob) -> Iterator[_Preparation]:
        preparation = _Preparation(job)
        self._under_way.append(preparation)
        try:
            yield preparation
        finally:
            self._under_way.remove(preparation)

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
