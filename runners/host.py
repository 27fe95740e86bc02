"""The engine's household: reads settings and store, starts the engine, tells how it is."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future

import structlog

from api.settings import Settings, load_settings
from models.catalog import Catalog, load_catalog
from models.store import default_name, require
from runners.device import Device
from runners.engine import Engine, EngineConfig
from runners.loader import Loader
from runners.messages import LoadOrder, RunnerStatus
from runners.residency import LoadError, Residency
from runners.warmup import warm_up

log = structlog.get_logger(__name__)


class EngineHost:
    """One engine with its weights, from start to close."""

    def __init__(self, catalog: Catalog, settings: Settings, device: Device) -> None:
        inventory = require(catalog)
        self._device = device
        self._loader = Loader(Residency(catalog, inventory, device))
        self.engine = Engine(self._loader, device, EngineConfig(max_queue=settings.max_queue))
        self._state = "loading_models"
        self._startup_error: str | None = None
        self._model = settings.preload_model or default_name(
            inventory.models, catalog.default_model
        )
        self._controlnet = default_name(inventory.controlnets, catalog.default_controlnet)

    @classmethod
    def start(cls) -> EngineHost:
        """Start the engine as the environment says; the first variant loads meanwhile."""
        settings = load_settings()
        host = cls(load_catalog(settings.catalog), settings, Device.best())
        host.engine.start()
        first = host._loader.load(host._model, host._controlnet)
        first.add_done_callback(host._warm_up)
        return host

    async def load(self, order: LoadOrder) -> str | None:
        """Load what is named, the first ones for what is not; an error message or None."""
        future = self._loader.load(order.model or self._model, order.controlnet or self._controlnet)
        try:
            await asyncio.wrap_future(future)
        except LoadError as error:
            return str(error)
        return None

    def unload(self, order: LoadOrder) -> tuple[str, ...]:
        """Forget what is named; returns what was resident."""
        residency = self._loader.residency
        dropped = []
        if order.model is not None and residency.unload_variant(order.model):
            dropped.append(order.model)
        if order.controlnet is not None and residency.unload_controlnet(order.controlnet):
            dropped.append(order.controlnet)
        return tuple(dropped)

    def status(self) -> RunnerStatus:
        """The runner at this moment."""
        waiting, running, seconds = self.engine.snapshot()
        residency = self._loader.residency
        ram, gpu = self._device.memory()
        errors = dict(residency.errors)
        return RunnerStatus(
            state="degraded" if self._state == "ready" and errors else self._state,
            loaded_models=tuple(residency.variants),
            loaded_controlnets=tuple(residency.controlnets),
            waiting=waiting,
            running=running,
            estimated_seconds=seconds,
            ram_mb=ram,
            gpu_memory=gpu,
            device=str(self._device.torch_device),
            startup_error=self._startup_error,
            load_errors=errors,
        )

    def close(self) -> None:
        """Stop after the current step."""
        self.engine.close()
        self._loader.close()

    def _warm_up(self, loaded: Future[None]) -> None:
        error = loaded.exception()
        if error is not None:
            self._state, self._startup_error = "error", str(error)
            return
        residency = self._loader.residency
        variant = residency.load_variant(self._model)
        controlnet = residency.load_controlnet(self._controlnet)
        started = time.monotonic()

        def measure() -> None:
            warm_up(variant, controlnet, self._device, self.engine.cost)

        self.engine.call(measure).add_done_callback(lambda done: self._ready(done, started))

    def _ready(self, warmed: Future[None], started: float) -> None:
        error = warmed.exception()
        if error is not None:
            log.error("warm-up failed", exc_info=error)
            self._state, self._startup_error = "error", "the warm-up failed"
            return
        self._state = "ready"
        log.info(
            "ready",
            model=self._model,
            device=str(self._device.torch_device),
            max_rows=self.engine.cost.max_rows,
            warm_up_seconds=round(time.monotonic() - started, 2),
        )
