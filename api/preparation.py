"""From a resolved request to a whole job: its pictures decoded, its depth estimated."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import ParamSpec, TypeVar

from api.errors import Conflict, InvalidRequest
from api.gateway import Gateway, HasLeft
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
from api.requests import EstimateRequest, GenerateRequest
from api.resolve import Resolved
from runners.messages import CancelOrder, EstimateJob, PaintJob

P = ParamSpec("P")
R = TypeVar("R")

_DECODERS = 2


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

    job: PaintJob | EstimateJob
    cancelled: bool = False

    def check(self) -> None:
        """Conflict, once it was cancelled."""
        if self.cancelled:
            raise Conflict("the request was cancelled", code="cancelled")


class Preparations:
    """The requests whose pictures are being decoded; they can be cancelled like any other."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        # Decoding a large picture takes tens of megabytes; two at once keep both cores busy.
        self._decoders = ThreadPoolExecutor(_DECODERS, "decode")
        self._under_way: list[_Preparation] = []

    async def prepare(
        self,
        request: GenerateRequest,
        resolved: Resolved,
        traceparent: str,
        has_left: HasLeft | None = None,
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
            # One with an id may join another, one of a session may take another's place.
            if request.request_id is None and request.session is None:
                await self._gateway.refuse_if_full()
            photograph = await self._photograph(request, job)
            preparation.check()
            if resolved.depth_estimator is not None and photograph is not None:
                wanted = _estimate_job(resolved.depth_estimator, photograph, job, traceparent)
                depth: DepthMap | None = await self._estimated(wanted, request, has_left or _stays)
            else:
                depth = await self._depth(request, job)
            png = None
            if request.return_depth and depth is not None:
                png = await self.off_loop(encode_depth, depth.pixels, job.width, job.height)
        preparation.check()
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

    async def estimate(
        self, request: EstimateRequest, job: EstimateJob, has_left: HasLeft
    ) -> tuple[DepthMap, int, int]:
        """The depth of a photograph, its width and its height.

        Args:
            request: whose photograph it is, and how to change the map.
            job: what is known of the work, without the photograph and its size.
            has_left: whether the caller has.

        Raises:
            ApiError: as for prepare.
        """
        with self._noted(job) as preparation:
            await self._gateway.refuse_if_full()
            photograph = await self.off_loop(
                decode_image, request.image_b64, request.width, request.height
            )
            preparation.check()
            width, height = photograph.width, photograph.height
            whole = replace(job, image=photograph.pixels, width=width, height=height)
            return await self._estimated(whole, request, has_left), width, height

    async def off_loop(
        self, function: Callable[P, R], *arguments: P.args, **settings: P.kwargs
    ) -> R:
        """Work on pictures on one of few threads, in the order in which it is asked for."""
        call = partial(contextvars.copy_context().run, function, *arguments, **settings)
        return await asyncio.get_running_loop().run_in_executor(self._decoders, call)

    def cancel(self, order: CancelOrder) -> list[str]:
        """End what the order names; returns the request ids."""
        named = [each for each in self._under_way if order.names(each.job)]
        for each in named:
            each.cancelled = True
        return [each.job.request_id for each in named]

    async def _photograph(self, request: GenerateRequest, job: PaintJob) -> Photograph | None:
        if request.image_b64 is None:
            return None
        return await self.off_loop(decode_image, request.image_b64, job.width, job.height)

    async def _estimated(
        self, job: EstimateJob, request: GenerateRequest | EstimateRequest, has_left: HasLeft
    ) -> DepthMap:
        """The depth of a photograph, changed as the request asks."""
        pixels = await self._gateway.estimate(job, has_left)
        switches = {"invert": request.invert_depth, "normalize": request.normalize_depth}
        return await self.off_loop(adjusted_depth, pixels, job.width, job.height, **switches)

    async def _depth(self, request: GenerateRequest, job: PaintJob) -> DepthMap | None:
        """The depth map that the request sends, None where it sends none."""
        size = (job.width, job.height)
        switches = {"invert": request.invert_depth, "normalize": request.normalize_depth}
        if request.depth_map_b64 is not None:
            return await self.off_loop(decode_depth, request.depth_map_b64, *size, **switches)
        if request.mock_depth:
            return await self.off_loop(mock_depth, *size, **switches)
        return None

    @contextlib.contextmanager
    def _noted(self, job: PaintJob | EstimateJob) -> Iterator[_Preparation]:
        preparation = _Preparation(job)
        self._under_way.append(preparation)
        try:
            yield preparation
        finally:
            self._under_way.remove(preparation)


def _estimate_job(
    estimator: str, photograph: Photograph, job: PaintJob, traceparent: str
) -> EstimateJob:
    """What is to be estimated before a job, under its name."""
    return EstimateJob(
        request_id=job.request_id,
        subscriber=job.subscriber,
        estimator=estimator,
        image=photograph.pixels,
        width=job.width,
        height=job.height,
        session=job.session,
        arrived=job.arrived,
        traceparent=traceparent,
    )


async def _stays() -> bool:
    """For callers whose leaving cancels the task that works for them."""
    return False
