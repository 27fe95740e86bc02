"""The public service: routes and nothing else.

bentoml serve            (from this folder, in the environment that `make setup` makes)
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import AsyncGenerator
from typing import Any

import bentoml
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from api.access import Access, owned
from api.browsers import Sites
from api.documentation import documented
from api.errors import ApiError, Unauthorized
from api.estimation import Estimation
from api.gateway import Gateway
from api.logs import configure_logs
from api.metrics import show_zeros, state_of
from api.middleware import ContractMiddleware, current_request, stashed
from api.painter import Painter
from api.playground import playground_routes
from api.preparation import Preparations
from api.ready import refuse_start
from api.requests import CancelRequest, EstimateRequest, GenerateRequest, LoadRequest
from api.resolve import Resolver
from api.responses import (
    CancelResponse,
    ErrorBody,
    EstimateResponse,
    GenerateResponse,
    Health,
    LoadResponse,
    ModelsInfo,
)
from api.route_labels import label_routes
from api.settings import SettingsError, load_settings
from api.status import health_of, loaded, models_of
from api.supervisor import keep_supervisor_private, require_runner_socket
from api.tracing import configure_tracing, flush_traces
from models.bundle import bundled
from models.catalog import CatalogError, load_catalog
from models.shelf import Shelf
from models.store import StoreError, require
from runners.messages import CancelOrder, LoadOrder
from runners.runner import SDXLRunner


class Arguments(BaseModel):
    """What a Bento was built with: `bentoml build --arg catalog=experimance`."""

    catalog: str = ""


if not os.environ.get("CATALOG"):
    # Every process of the service imports this file, so the runner reads it too.
    os.environ["CATALOG"] = bentoml.use_arguments(Arguments).catalog
keep_supervisor_private()
label_routes()
try:
    require_runner_socket(os.environ)
    settings = load_settings()
except SettingsError as bad:
    refuse_start(bad)

# Scrapers and autoscalers may come often; the runner has other work.
_SCRAPE_SECONDS = 1.0

# Brings the schema of the error body into the documentation.
_ERRORS: dict[int | str, dict[str, Any]] = {500: {"model": ErrorBody}}

reads = FastAPI(title="reads", docs_url=None, redoc_url=None, openapi_url=None)
reads.router.routes.extend(playground_routes())


@reads.get("/healthcheck", response_model=Health, responses=_ERRORS, tags=["Service APIs"])
async def get_health() -> Any:
    """How the service is; answers within 100 ms whatever the device does. 503 on `error`."""
    return await bentoml.get_current_service().health()


@reads.get("/models", response_model=ModelsInfo, responses=_ERRORS, tags=["Service APIs"])
async def get_models() -> Any:
    """What requests may name, with defaults, sources and licences."""
    return await bentoml.get_current_service().known_models()


@reads.get("/docs.json", include_in_schema=False)
async def get_documentation() -> Any:
    """The OpenAPI document."""
    service: Any = ImageService
    return documented(service.openapi_spec.asdict())


# BentoML's documentation shows a path of a mounted application only with that application's
# methods. These two are never reached: the service's own POST routes come first.
reads.post("/healthcheck", response_model=Health, tags=["Service APIs"])(get_health)
reads.post("/models", response_model=ModelsInfo, tags=["Service APIs"])(get_models)


@bentoml.service(
    name="experimance-controlnet",
    workers=1,
    traffic={"timeout": 1e9},
    http={"host": settings.model_server_host, "port": settings.model_server_port},
    envs=[{"name": "CATALOG", "value": settings.catalog}],
)
@bentoml.asgi_app(reads, path="/")
class ImageService:
    """A depth map and a prompt in, an SDXL picture out."""

    runner = bentoml.depends(SDXLRunner)

    def __init__(self) -> None:
        configure_logs(settings, "api")
        # The event loop gives the interpreter up at every system call, and gets it back from a
        # thread that checks a body after so many seconds; Python's 5 ms add up to 0.1 s a request.
        sys.setswitchinterval(0.0005)
        configure_tracing(settings)
        self._started = time.monotonic()
        catalog = load_catalog(settings.catalog)
        show_zeros((*catalog.models, *catalog.depth_estimators))
        self._resolver = Resolver(catalog, Shelf(catalog, settings.fetch_missing))
        self._gateway = Gateway(self.runner)
        self._preparations = Preparations(self._gateway, settings.max_queue)
        self._painter = Painter(self._resolver, self._gateway, self._preparations)
        self._estimation = Estimation(self._resolver, self._preparations)

    @bentoml.on_deployment
    def check_start() -> None:
        """Stop the start with one line where the catalog or its weights do not suffice."""
        try:
            Access(settings)
            Sites(settings)
            catalog = load_catalog(settings.catalog)
            there = catalog.models if settings.fetch_missing else require(catalog).models
            wanted = settings.preload_model
            if wanted is not None and wanted not in there:
                raise SettingsError(f"PRELOAD_MODEL: {wanted} is none of {', '.join(there)}")
        except (SettingsError, CatalogError, StoreError) as error:
            refuse_start(error)

    @bentoml.api(input_spec=GenerateRequest)
    async def generate(self, **fields: Any) -> GenerateResponse:
        """Paint a picture.

        With `Accept: image/jpeg`, `image/png` or `image/webp` the body is the first picture
        itself; seed, model, request id and timings are `X-` headers.
        """
        # BentoML sends a Response as it is, beside the annotated model.
        answer: Any = await self._painter.answer(_validated(fields), current_request())
        return answer

    @bentoml.api(input_spec=GenerateRequest)
    async def generate_stream(self, **fields: Any) -> AsyncGenerator[str, None]:
        """Paint a picture and tell how it goes, as server-sent events.

        Events: `queued` (position), `started`, `step` (step, steps, at most five times a second
        preview_b64), then `done` (the answer of /generate) or `error` (the error body). Leaving
        the stream cancels the work.
        """
        try:
            async for event in self._painter.stream(_validated(fields), current_request()):
                yield event
        except ApiError as error:
            raise stashed(error) from None

    @bentoml.api(input_spec=EstimateRequest)
    async def estimate_depth(self, **fields: Any) -> EstimateResponse:
        """Estimate the depth of a photograph.

        With `Accept: image/png` the body is the map itself, and the estimator's name a header,
        `X-Depth-Estimator`.
        """
        request = EstimateRequest.model_construct(**fields)
        answer: Any = await self._estimation.answer(request, current_request())
        return answer

    @bentoml.api(input_spec=CancelRequest)
    async def cancel(self, **fields: Any) -> CancelResponse:
        """Cancel a request, a session, or everything; the cancelled calls end with 409."""
        try:
            if fields["all"] and not current_request().state.manages:
                raise Unauthorized("all: the operator's bearer token is needed")
            owner = current_request().state.owner
            session = owned(fields["session"], owner)
            order = CancelOrder(fields["request_id"], session, fields["all"], owner=owner)
            ids = await self._painter.cancel(order)
        except ApiError as error:
            return _refusal(error)
        return CancelResponse(cancelled=list(ids))

    @bentoml.api(input_spec=LoadRequest)
    async def preload(self, **fields: Any) -> LoadResponse:
        """Load a variant and a ControlNet; other variants' requests go on meanwhile."""
        try:
            order = self._resolver.load_order(_named(fields))
            outcome = await self._gateway.load(order)
        except ApiError as error:
            return _refusal(error)
        return loaded(outcome)

    @bentoml.api(input_spec=LoadRequest)
    async def unload(self, **fields: Any) -> LoadResponse:
        """Forget a variant, a ControlNet, or both; requests that use them finish first."""
        try:
            order = self._resolver.unload_order(_named(fields))
            outcome = await self._gateway.unload(order)
        except ApiError as error:
            return _refusal(error)
        return loaded(outcome)

    @bentoml.api
    async def healthcheck(self) -> Health:
        """How the service is, for clients that only post."""
        answer: Any = await self.health()
        return answer

    @bentoml.api
    async def models(self) -> ModelsInfo:
        """What requests may name, for clients that only post."""
        return await self.known_models()

    async def __metrics__(self, counted: str) -> str:
        """For /metrics: what was counted, and the runner as it is now."""
        return counted + state_of(await self._gateway.status(max_age=_SCRAPE_SECONDS))

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Send the last spans, and end the processes that decode pictures."""
        flush_traces()
        await self._preparations.close()

    async def health(self) -> Response:
        """The health answer, for both its routes."""
        status = await self._gateway.status()
        health = health_of(self._resolver, status, self._preparations.decoding, self._started)
        # With its id the middleware takes a 503 for an answer, not for an error to be rewritten.
        request_id = {"X-Request-Id": current_request().state.id}
        status_code = 503 if health.status == "error" else 200
        return JSONResponse(health.model_dump(), status_code, request_id)

    async def known_models(self) -> ModelsInfo:
        """The models answer, for both its routes."""
        return models_of(self._resolver, await self._gateway.status())


ImageService.add_asgi_middleware(ContractMiddleware)  # type: ignore[attr-defined]
with contextlib.suppress(CatalogError):
    # A catalog that cannot be read stops the start in check_start, with its reason.
    ImageService.models.extend(bundled(load_catalog(settings.catalog)))


def _validated(fields: dict[str, Any]) -> GenerateRequest:
    """BentoML has validated the fields and hands them over one by one."""
    return GenerateRequest.model_construct(**fields)


def _named(fields: dict[str, Any]) -> LoadOrder:
    """What to load by body, else by the older clients' query parameters."""
    query = current_request().query_params
    return LoadOrder(
        fields["model"] or query.get("model_name"),
        fields["controlnet"] or query.get("controlnet_id"),
    )


def _refusal(error: ApiError) -> Any:
    """BentoML sends a Response as it is, whatever model the route is annotated with."""
    return error.response(current_request().state.id)
