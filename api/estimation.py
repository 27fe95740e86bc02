"""What the route of depth estimates does: resolve, decode, estimate, answer."""

from __future__ import annotations

import base64
import time
import uuid

from starlette.requests import Request
from starlette.responses import Response

from api.acceptance import accepted_picture
from api.account import Account
from api.images.decoding import encode_depth
from api.preparation import Preparations
from api.requests import EstimateRequest
from api.resolve import Resolver
from api.responses import EstimateResponse
from runners.messages import EstimateJob

_PNG = "image/png"


class Estimation:
    """Answers requests for the depth of photographs."""

    def __init__(self, resolver: Resolver, preparations: Preparations) -> None:
        self._resolver = resolver
        self._preparations = preparations

    async def answer(self, request: EstimateRequest, http: Request) -> Response | EstimateResponse:
        """The map as JSON, as itself if the caller accepts a PNG, or an error."""
        request_id = str(http.state.id)
        account: Account = http.state.account
        return await account.settle(self._answer(request, http, request_id), request_id)

    async def _answer(
        self, request: EstimateRequest, http: Request, request_id: str
    ) -> Response | EstimateResponse:
        arrived = time.monotonic()
        account: Account = http.state.account
        estimator = self._resolver.depth_estimator(request.depth_estimator)
        account.resolved(estimator)
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
        png = await self._preparations.off_loop(encode_depth, depth.pixels, width, height)
        if accepted_picture(http, {_PNG}) is not None:
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
