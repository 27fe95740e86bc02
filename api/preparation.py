"""From a resolved request to a whole job: its pictures decoded, its depth estimated."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ParamSpec, TypeVar

from api.errors import Conflict, InvalidRequest
from api.gateway import Gateway, HasLeft, watched
from api.images.decoder_pool import DecoderPool
from api.images.decoding import DepthMap, Photograph, adjusted_depth, encode_depth, mock_depth
from api.provenance import parameters
from api.requests import EstimateRequest, GenerateRequest
from api.resolve import Resolved
from runners.messages import CancelOrder, EstimateJob, PaintJob

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_THREADS = 2


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job that the runner can begin with, and what to tell the caller beside the picture.

    `depth_png` is the depth map that was used, where the caller asked for it.
    """

    job: PaintJob
    warnings: tuple[str, ...]
    depth_png: bytes | None = None


class _Preparation:
    """A job that the runner does not know yet."""

    def __init__(self, job: PaintJob | EstimateJob) -> None:
        self.job = job
        self._cancelled = False
        self._work: asyncio.Future[Any] | None = None

    async def result(self, work: Coroutine[Any, Any, T], has_left: HasLeft | None = None) -> T:
        """The result of some work, which ends when it is cancelled, or its caller leaves.

        Args:
            work: what to do.
            has_left: whether the caller has; None where the work itself looks after it.

        Raises:
            Conflict: either was so.
        """
        self._work = asyncio.ensure_future(work)
        if self._cancelled:
            self._work.cancel()
        try:
            return await (watched(self._work, has_left) if has_left else self._work)
        except asyncio.CancelledError:
            self.check()
            raise
        finally:
            self._work.cancel()

    def cancel(self) -> None:
        """End it."""
        self._cancelled = True
        if self._work is not None:
            self._work.cancel()

    def check(self) -> None:
        """Conflict, once it was cancelled."""
        if self._cancelled:
            raise Conflict("the request was cancelled", code="cancelled")


class Preparations:
    """The requests whose pictures are being decoded; they can be cancelled like any other."""

    def __init__(self, gateway: Gateway, most: int) -> None:
        """`most` pictures may wait for their decoder."""
        self._gateway = gateway
        self._decoders = DecoderPool(most)
        self._threads = ThreadPoolExecutor(_THREADS, "depth")
        self._under_way: list[_Preparation] = []

    @property
    def decoding(self) -> int:
        """Pictures that are being decoded, or wait for it."""
        return self._decoders.waiting

    async def close(self) -> None:
        """End the processes that decode."""
        await self._decoders.close()

    async def prepare(
        self,
        request: GenerateRequest,
        resolved: Resolved,
        traceparent: str,
        has_left: HasLeft,
    ) -> Prepared:
        """Decode the request's pictures, estimate its depth where that is asked for.

        Args:
            request: whose pictures they are.
            resolved: what is known of the job without them.
            traceparent: of the request's trace; empty without one.
            has_left: whether the caller has; its work ends then.

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
            photograph, depth = await preparation.result(self._decoded(request, job), has_left)
            if resolved.depth_estimator is not None and photograph is not None:
                wanted = _estimate_job(resolved.depth_estimator, photograph, job, traceparent)
                estimated = self._estimated(wanted, request, has_left)
                depth = await preparation.result(estimated)
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
            decoded = self._decoders.decode_image(request.image_b64, request.width, request.height)
            photograph = await preparation.result(decoded, has_left)
            width, height = photograph.width, photograph.height
            whole = replace(job, image=photograph.pixels, width=width, height=height)
            estimated = self._estimated(whole, request, has_left)
            depth = await preparation.result(estimated)
        preparation.check()
        return depth, width, height

    async def off_loop(
        self, function: Callable[P, R], *arguments: P.args, **settings: P.kwargs
    ) -> R:
        """Work on pictures on one of few threads, in the order in which it is asked for."""
        call = partial(contextvars.copy_context().run, function, *arguments, **settings)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def cancel(self, order: CancelOrder) -> list[str]:
        """End what the order names; returns the request ids."""
        named = [each for each in self._under_way if order.names(each.job)]
        for each in named:
            each.cancel()
        return [each.job.request_id for each in named]

    async def _decoded(
        self, request: GenerateRequest, job: PaintJob
    ) -> tuple[Photograph | None, DepthMap | None]:
        """The photograph and the depth map that the request sends, None for what it does not."""
        photograph, depth = None, None
        size = (job.width, job.height)
        switches = {"invert": request.invert_depth, "normalize": request.normalize_depth}
        if request.image_b64 is not None:
            photograph = await self._decoders.decode_image(request.image_b64, *size)
        if request.depth_map_b64 is not None:
            depth = await self._decoders.decode_depth(request.depth_map_b64, *size, **switches)
        elif request.mock_depth:
            depth = await self.off_loop(mock_depth, *size, **switches)
        return photograph, depth

    async def _estimated(
        self, job: EstimateJob, request: GenerateRequest | EstimateRequest, has_left: HasLeft
    ) -> DepthMap:
        """The depth of a photograph, changed as the request asks."""
        pixels = await self._gateway.estimate(job, has_left)
        switches = {"invert": request.invert_depth, "normalize": request.normalize_depth}
        return await self.off_loop(adjusted_depth, pixels, job.width, job.height, **switches)

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
        owner=job.owner,
        arrived=job.arrived,
        traceparent=traceparent,
    )
