"""Preparation of resolved requests: image decoding and depth estimation."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import hashlib
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec, TypeVar

from msgspec.structs import replace

from api.errors import Conflict, InvalidRequest
from api.handlers.job_parameters import build_job_parameters
from api.handlers.resolve import ResolvedRequest
from api.images.decoder_pool import DecoderPool
from api.images.decoding import DepthMap, RgbImage, depth_from_estimate, encode_depth, mock_depth
from api.runner_client import IsDisconnected, RunnerClient, until_disconnect
from api.schemas.requests import EstimateRequest, GenerateRequest
from common.protocol import CancelCommand, EstimateJob, GenerateJob

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_THREADS = 2


@dataclass(frozen=True, slots=True)
class PreparedJob:
    """Job that is ready for the runner, with additional parts of its response.

    `depth_png` is the depth map that was used, or None if the client did not request it.
    """

    job: GenerateJob
    warnings: tuple[str, ...]
    depth_png: bytes | None = None


class _PendingRequest:
    """Job in preparation, not yet sent to the runner."""

    def __init__(self, job: GenerateJob | EstimateJob) -> None:
        self.job = job
        self._cancelled = False
        self._work: asyncio.Future[Any] | None = None

    async def result(
        self, work: Coroutine[Any, Any, T], has_left: IsDisconnected | None = None
    ) -> T:
        """Await some work; cancel it if the job is cancelled or its client disconnects.

        Args:
            work: the coroutine to await.
            has_left: whether the client has disconnected; None if the work polls for it.

        Raises:
            Conflict: the job was cancelled, or the client disconnected.
        """
        self._work = asyncio.ensure_future(work)
        if self._cancelled:
            self._work.cancel()
        try:
            return await (until_disconnect(self._work, has_left) if has_left else self._work)
        except asyncio.CancelledError:
            self.check()
            raise
        finally:
            self._work.cancel()

    def cancel(self) -> None:
        """Cancel the job and its current work."""
        self._cancelled = True
        if self._work is not None:
            self._work.cancel()

    def check(self) -> None:
        """Raise if the job was cancelled.

        Raises:
            Conflict: the job was cancelled.
        """
        if self._cancelled:
            raise Conflict("the request was cancelled", code="cancelled")


class RequestPreparer:
    """Preparation of requests; cancel commands reach them like requests in the runner."""

    def __init__(self, gateway: RunnerClient, most: int) -> None:
        """Start the decoders; at most `most` images may be waiting or in progress."""
        self._gateway = gateway
        self._decoders = DecoderPool(most)
        self._threads = ThreadPoolExecutor(_THREADS, "depth")
        self._under_way: list[_PendingRequest] = []

    @property
    def decoding(self) -> int:
        """Number of images that wait for a decoder or are being decoded."""
        return self._decoders.waiting

    async def close(self) -> None:
        """End the decoder processes."""
        await self._decoders.close()

    async def prepare(
        self,
        request: GenerateRequest,
        resolved: ResolvedRequest,
        traceparent: str,
        has_left: IsDisconnected,
    ) -> PreparedJob:
        """Decode the request's images, and estimate its depth if required.

        Args:
            request: the request with its images.
            resolved: the job without images.
            traceparent: W3C traceparent of the request's span; empty without tracing.
            has_left: whether the client has disconnected; a disconnect ends the work.

        Raises:
            ApiError: an image is invalid, the queue is full, the estimate failed, the request was
                cancelled, or the client disconnected.
        """
        job = resolved.job
        if request.embed_inputs and job.output_format != "png":
            raise InvalidRequest.for_field("embed_inputs", f"needs a PNG, not {job.output_format}")
        with self._track(job) as preparation:
            # A request with an id may join another; one with a session may supersede another.
            if request.request_id is None and request.session is None:
                await self._gateway.raise_if_overloaded()
            photograph, depth = await preparation.result(self._decode(request, job), has_left)
            if resolved.depth_estimator is not None and photograph is not None:
                wanted = _estimate_job(resolved.depth_estimator, photograph, job, traceparent)
                estimated = self._estimate(wanted, request, has_left)
                depth = await preparation.result(estimated)
            png = None
            if request.return_depth and depth is not None:
                png = await self.run_in_decoder_pool(
                    encode_depth, depth.pixels, job.width, job.height
                )
        preparation.check()
        init_image = photograph if request.strength is not None else None
        used = depth or DepthMap(b"")
        image_digest = photograph.digest if photograph else ""
        whole = replace(
            job,
            depth=used.pixels,
            image=init_image.pixels if init_image else b"",
            parameters=build_job_parameters(request, resolved, job, used.digest, image_digest),
            embed_parameters=request.embed_parameters,
            embed_inputs=request.embed_inputs,
            traceparent=traceparent,
            fingerprint=_fingerprint(request, used.digest, image_digest),
        )
        return PreparedJob(whole, (*resolved.warnings, *used.warnings), png)

    async def estimate(
        self, request: EstimateRequest, job: EstimateJob, has_left: IsDisconnected
    ) -> tuple[DepthMap, int, int]:
        """Return the depth map of a photograph, with its width and height in pixels.

        Args:
            request: the request with its photograph and options.
            job: the job without the photograph and its size.
            has_left: whether the client has disconnected.

        Raises:
            ApiError: as for `prepare`.
        """
        with self._track(job) as preparation:
            await self._gateway.raise_if_overloaded()
            decoded = self._decoders.decode_image(request.image_b64, request.width, request.height)
            photograph = await preparation.result(decoded, has_left)
            width, height = photograph.width, photograph.height
            whole = replace(job, image=photograph.pixels, width=width, height=height)
            estimated = self._estimate(whole, request, has_left)
            depth = await preparation.result(estimated)
        preparation.check()
        return depth, width, height

    async def run_in_decoder_pool(
        self, function: Callable[P, R], *arguments: P.args, **settings: P.kwargs
    ) -> R:
        """Run a function on one of two threads, first in, first out."""
        call = partial(contextvars.copy_context().run, function, *arguments, **settings)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def cancel(self, order: CancelCommand) -> list[str]:
        """Cancel the requests in preparation that the command matches; return their ids."""
        named = [each for each in self._under_way if order.matches(each.job)]
        for each in named:
            each.cancel()
        return [each.job.request_id for each in named]

    async def _decode(
        self, request: GenerateRequest, job: GenerateJob
    ) -> tuple[RgbImage | None, DepthMap | None]:
        """Return the request's photograph and depth map, None for an absent one."""
        photograph, depth = None, None
        size = (job.width, job.height)
        options = {"invert": request.invert_depth, "normalize": request.normalize_depth}
        if request.image_b64 is not None:
            photograph = await self._decoders.decode_image(request.image_b64, *size)
        if request.depth_map_b64 is not None:
            depth = await self._decoders.decode_depth(request.depth_map_b64, *size, **options)
        elif request.mock_depth:
            depth = await self.run_in_decoder_pool(mock_depth, *size, **options)
        return photograph, depth

    async def _estimate(
        self, job: EstimateJob, request: GenerateRequest | EstimateRequest, has_left: IsDisconnected
    ) -> DepthMap:
        """Return the depth map of a photograph, with the request's options applied."""
        pixels = await self._gateway.estimate(job, has_left)
        options = {"invert": request.invert_depth, "normalize": request.normalize_depth}
        return await self.run_in_decoder_pool(
            depth_from_estimate, pixels, job.width, job.height, **options
        )

    @contextlib.contextmanager
    def _track(self, job: GenerateJob | EstimateJob) -> Iterator[_PendingRequest]:
        preparation = _PendingRequest(job)
        self._under_way.append(preparation)
        try:
            yield preparation
        finally:
            self._under_way.remove(preparation)


def _fingerprint(request: GenerateRequest, depth_digest: str, image_digest: str) -> str:
    """Return a digest of all that equal requests with an id of their own have in common.

    What the service draws or resolves is left out, so that another try of a request is equal to it.
    """
    if request.request_id is None:
        return ""
    apart = {"request_id", "deadline_ms", "depth_map_b64", "image_b64"}
    text = request.model_dump_json(exclude=apart)
    return hashlib.sha256("\n".join((text, depth_digest, image_digest)).encode()).hexdigest()


def _estimate_job(
    estimator: str, photograph: RgbImage, job: GenerateJob, traceparent: str
) -> EstimateJob:
    """Return the estimate job that precedes a generation job, with the same id and owner."""
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
