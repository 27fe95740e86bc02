"""Public BentoML service: routes only.

Start it with `bentoml serve` in this folder, in the environment that `make setup` creates.
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

from api.errors import ApiError, Unauthorized
from api.handlers.estimate_depth import EstimateDepthHandler
from api.handlers.generate import GenerateHandler
from api.handlers.prepare import RequestPreparer
from api.handlers.resolve import RequestResolver
from api.handlers.status import build_health, build_load_response, build_models_info
from api.http.auth import Access, owned
from api.http.middleware import ApiMiddleware, current_request, defer_error
from api.http.openapi import customize_openapi
from api.http.origins import Sites
from api.http.playground import playground_routes
from api.http.route_labels import label_routes
from api.request_metrics import initialize_labels
from api.runner_client import RunnerClient
from api.runner_gauges import render_runner_gauges
from api.schemas.requests import CancelRequest, EstimateRequest, GenerateRequest, LoadRequest
from api.schemas.responses import (
    CancelResponse,
    ErrorBody,
    EstimateResponse,
    GenerateResponse,
    Health,
    LoadResponse,
    ModelsInfo,
)
from common.bentoml_patches import keep_supervisor_private, require_runner_socket
from common.lifecycle import exit_with_config_error
from common.log_config import configure_logs
from common.protocol import CancelCommand, LoadCommand
from common.settings import SettingsError, load_settings
from common.tracing import configure_tracing, flush_traces
from models.catalog import CatalogError, load_catalog
from models.store.inventory import LiveInventory, bento_models, require_servable
from models.store.store import StoreError
from runners.server.service import SDXLRunner


class BuildArguments(BaseModel):
    """Arguments of `bentoml build`, for example `--arg catalog=experimance`."""

    catalog: str = ""


if not os.environ.get("CATALOG"):
    # The runner process imports this file too and reads CATALOG from its environment.
    os.environ["CATALOG"] = bentoml.use_arguments(BuildArguments).catalog
keep_supervisor_private()
label_routes()
try:
    require_runner_socket(os.environ)
    settings = load_settings()
except SettingsError as bad:
    exit_with_config_error(bad)

# Frequent scrapes and autoscaler polls reuse a status of this age, to spare the runner.
_SCRAPE_SECONDS = 1.0

# Adds the schema of the error body to the OpenAPI document.
_ERRORS: dict[int | str, dict[str, Any]] = {500: {"model": ErrorBody}}

public_app = FastAPI(title="reads", docs_url=None, redoc_url=None, openapi_url=None)
public_app.router.routes.extend(playground_routes())


@public_app.get("/healthcheck", response_model=Health, responses=_ERRORS, tags=["Service APIs"])
async def get_health() -> Any:
    """Return the service's state within 100 ms, even while the device is busy; 503 on `error`."""
    return await bentoml.get_current_service().health()


@public_app.get("/models", response_model=ModelsInfo, responses=_ERRORS, tags=["Service APIs"])
async def get_models() -> Any:
    """Return the names that requests accept, with defaults, sources and licences."""
    return await bentoml.get_current_service().list_models()


@public_app.get("/docs.json", include_in_schema=False)
async def get_documentation() -> Any:
    """Return the OpenAPI document."""
    service: Any = ImageService
    return customize_openapi(service.openapi_spec.asdict())


# BentoML's OpenAPI document lists a path of a mounted application with that application's methods
# only. These two are never called, because the service's own POST routes match first.
public_app.post("/healthcheck", response_model=Health, tags=["Service APIs"])(get_health)
public_app.post("/models", response_model=ModelsInfo, tags=["Service APIs"])(get_models)


@bentoml.service(
    name="experimance-controlnet",
    workers=1,
    traffic={"timeout": 1e9},
    logging={"access": {"enabled": False}},
    http={"host": settings.model_server_host, "port": settings.model_server_port},
    envs=[{"name": "CATALOG", "value": settings.catalog}],
)
@bentoml.asgi_app(public_app, path="/")
class ImageService:
    """Generation of SDXL images from a depth map and a prompt."""

    runner = bentoml.depends(SDXLRunner)

    def __init__(self) -> None:
        configure_logs(settings, "api")
        # The event loop releases the GIL at every system call. A thread that checks a body then
        # holds it for one switch interval; Python's 5 ms add up to 0.1 s per request.
        sys.setswitchinterval(0.0005)
        configure_tracing(settings)
        self._started = time.monotonic()
        catalog = load_catalog(settings.catalog)
        initialize_labels((*catalog.models, *catalog.depth_estimators))
        self._resolver = RequestResolver(catalog, LiveInventory(catalog, settings.fetch_missing))
        self._gateway = RunnerClient(self.runner)
        self._preparations = RequestPreparer(self._gateway, settings.max_queue)
        self._generation = GenerateHandler(self._resolver, self._gateway, self._preparations)
        self._estimation = EstimateDepthHandler(self._resolver, self._preparations)

    @bentoml.on_deployment
    def validate_startup() -> None:
        """Exit with one line on stderr if the settings, the catalog or its weights are invalid.

        Raises:
            SystemExit: a setting, the catalog or a required weight is missing or invalid.
        """
        try:
            Access(settings)
            Sites(settings)
            catalog = load_catalog(settings.catalog)
            usable = catalog.models if settings.fetch_missing else require_servable(catalog).models
            preload = settings.preload_model
            if preload is not None and preload not in usable:
                raise SettingsError(f"PRELOAD_MODEL: {preload} is not one of {', '.join(usable)}")
        except (SettingsError, CatalogError, StoreError) as error:
            exit_with_config_error(error)

    @bentoml.api(input_spec=GenerateRequest)
    async def generate(self, **fields: Any) -> GenerateResponse:
        """Generate images.

        With `Accept: image/jpeg`, `image/png` or `image/webp` the body is the first image itself.
        The seed, model, request id and timings are then in `X-` headers.
        """
        # BentoML sends a Response unchanged, although the annotation is a model.
        answer: Any = await self._generation.answer(_build_request(fields), current_request())
        return answer

    @bentoml.api(input_spec=GenerateRequest)
    async def generate_stream(self, **fields: Any) -> AsyncGenerator[str, None]:
        """Generate images and report progress as server-sent events.

        Events: `queued` (position), `started`, `step` (step, steps and, at most five times a
        second, preview_b64), then `done` (the response of /generate) or `error` (the error body).
        Closing the stream cancels the request.
        """
        try:
            async for event in self._generation.stream(_build_request(fields), current_request()):
                yield event
        except ApiError as error:
            raise defer_error(error) from None

    @bentoml.api(input_spec=EstimateRequest)
    async def estimate_depth(self, **fields: Any) -> EstimateResponse:
        """Estimate the depth of a photograph.

        With `Accept: image/png` the body is the depth map itself. The header `X-Depth-Estimator`
        then names the estimator.
        """
        request = EstimateRequest.model_construct(**fields)
        answer: Any = await self._estimation.answer(request, current_request())
        return answer

    @bentoml.api(input_spec=CancelRequest)
    async def cancel(self, **fields: Any) -> CancelResponse:
        """Cancel a request, a session or all requests; cancelled calls end with 409."""
        try:
            if fields["all"] and not current_request().state.is_admin:
                raise Unauthorized("all: requires the operator's bearer token")
            owner = current_request().state.owner
            session = owned(fields["session"], owner)
            order = CancelCommand(fields["request_id"], session, fields["all"], owner=owner)
            ids = await self._generation.cancel(order)
        except ApiError as error:
            return _error_response(error)
        return CancelResponse(cancelled=list(ids))

    @bentoml.api(input_spec=LoadRequest)
    async def preload(self, **fields: Any) -> LoadResponse:
        """Load a variant and a ControlNet; requests for other variants continue meanwhile."""
        try:
            order = self._resolver.resolve_load(_build_load_command(fields))
            outcome = await self._gateway.load(order)
        except ApiError as error:
            return _error_response(error)
        return build_load_response(outcome)

    @bentoml.api(input_spec=LoadRequest)
    async def unload(self, **fields: Any) -> LoadResponse:
        """Unload a variant, a ControlNet or both; requests that use them finish first."""
        try:
            order = self._resolver.resolve_unload(_build_load_command(fields))
            outcome = await self._gateway.unload(order)
        except ApiError as error:
            return _error_response(error)
        return build_load_response(outcome)

    @bentoml.api
    async def healthcheck(self) -> Health:
        """Return the service's state, for clients that only send POST requests."""
        answer: Any = await self.health()
        return answer

    @bentoml.api
    async def models(self) -> ModelsInfo:
        """Return the names that requests accept, for clients that only send POST requests."""
        return await self.list_models()

    async def __metrics__(self, counted: str) -> str:
        """Return the body of /metrics: the counted metrics and the runner's current gauges."""
        return counted + render_runner_gauges(await self._gateway.status(max_age=_SCRAPE_SECONDS))

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Export the remaining spans and end the decoder processes."""
        flush_traces()
        await self._preparations.close()

    async def health(self) -> Response:
        """Return the health response for both of its routes."""
        status = await self._gateway.status()
        health = build_health(self._resolver, status, self._preparations.decoding, self._started)
        # The middleware rewrites errors that have no request id; this 503 has its own body.
        request_id = {"X-Request-Id": current_request().state.id}
        status_code = 503 if health.status == "error" else 200
        return JSONResponse(health.model_dump(), status_code, request_id)

    async def list_models(self) -> ModelsInfo:
        """Return the models response for both of its routes."""
        return build_models_info(self._resolver, await self._gateway.status())


ImageService.add_asgi_middleware(ApiMiddleware)  # type: ignore[attr-defined]
with contextlib.suppress(CatalogError):
    # validate_startup reports an unreadable catalog and ends the start.
    ImageService.models.extend(bento_models(load_catalog(settings.catalog)))


def _build_request(fields: dict[str, Any]) -> GenerateRequest:
    """Build a request from fields that BentoML has already validated."""
    return GenerateRequest.model_construct(**fields)


def _build_load_command(fields: dict[str, Any]) -> LoadCommand:
    """Build a command from the body, else from the query parameters of older clients."""
    query = current_request().query_params
    return LoadCommand(
        fields["model"] or query.get("model_name"),
        fields["controlnet"] or query.get("controlnet_id"),
    )


def _error_response(error: ApiError) -> Any:
    """Return an error response; BentoML sends it unchanged whatever the annotation is."""
    return error.response(current_request().state.id)
