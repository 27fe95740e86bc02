"""Handler of the depth estimation route: resolve, decode, estimate, respond."""

from __future__ import annotations

import base64
import time
import uuid

from starlette.requests import Request
from starlette.responses import Response

from api.handlers.prepare import RequestPreparer
from api.handlers.resolve import RequestResolver
from api.http.media_types import preferred_image_type
from api.images.decoding import encode_depth
from api.request_metrics import RequestRecorder
from api.schemas.requests import EstimateRequest
from api.schemas.responses import EstimateResponse
from common.protocol import EstimateJob

_PNG = "image/png"


class EstimateDepthHandler:
    """Handler of requests for the depth of photographs."""

    def __init__(self, resolver: RequestResolver, preparations: RequestPreparer) -> None:
        self._resolver = resolver
        self._preparations = preparations

    async def answer(self, request: EstimateRequest, http: Request) -> Response | EstimateResponse:
        """Return the depth map as JSON, or as a PNG if the client accepts one, or an error."""
        request_id = str(http.state.id)
        account: RequestRecorder = http.state.account
        return await account.run_and_record(self._answer(request, http, request_id), http)

    async def _answer(
        self, request: EstimateRequest, http: Request, request_id: str
    ) -> Response | EstimateResponse:
        arrived = time.monotonic()
        account: RequestRecorder = http.state.account
        estimator = self._resolver.depth_estimator(request.depth_estimator)
        account.set_model(estimator)
        job = EstimateJob(
            request_id=request_id,
            subscriber=uuid.uuid4().hex,
            estimator=estimator,
            image=b"",
            width=0,
            height=0,
            arrived=arrived,
            traceparent=account.traceparent,
            owner=http.state.owner,
        )
        depth, width, height = await self._preparations.estimate(request, job, http.is_disconnected)
        png = await self._preparations.run_in_decoder_pool(
            encode_depth, depth.pixels, width, height
        )
        if preferred_image_type(http, {_PNG}) is not None:
            headers = {"X-Request-Id": request_id, "X-Depth-Estimator": estimator}
            return Response(png, media_type=_PNG, headers=headers)
        return EstimateResponse(
            depth_map_b64=base64.b64encode(png).decode("ascii"),
            depth_estimator=estimator,
            width=width,
            height=height,
            seconds=round(time.monotonic() - arrived, 4),
            request_id=request_id,
            warnings=list(depth.warnings),
        )
