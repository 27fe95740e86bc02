"""The engine's household: reads settings and store, starts the engine, tells how it is."""

from __future__ import annotations

import asyncio
from concurrent.futures import CancelledError
from threading import Thread

import psutil
import structlog

from api.logs import configure_logs
from api.ready import announce_ready
from api.settings import Settings, load_settings
from api.tracing import configure_tracing, flush_traces
from models.catalog import Catalog, load_catalog
from models.progress import Progress
from models.shelf import Shelf
from models.store import default_name, how_to_import, missing
from runners.boot import BootClock
from runners.budget import Budget
from runners.device import Device
from runners.download_meter import DownloadMeter
from runners.engine import Engine, EngineConfig
from runners.gpu_load import GpuLoad
from runners.loader import Loader
from runners.messages import LoadOrder, RunnerStatus
from runners.metrics import record_boot_phase, show_zeros
from runners.networks import ControlNet, Variant
from runners.residency import LoadError, Residency
from runners.warmup import WarmUpError, paint_sizes, warm_up

log = structlog.get_logger(__name__)


class EngineHost:
    """One engine with its weights, from start to close."""

    def __init__(
        self, catalog: Catalog, settings: Settings, device: Device, clock: BootClock
    ) -> None:
        self._clock = clock
        self._catalog = catalog
        self._settings = settings
        self._device = device
        self._shelf = Shelf(catalog, settings.fetch_missing)
        self._progress = Progress(DownloadMeter())
        self._gpu = GpuLoad(device)
        self._began = psutil.Process().create_time()
        show_zeros(catalog.models, catalog.controlnets, catalog.loras)
        self._budget = Budget(device, settings.vram_budget_gb)
        self._loader = Loader(Residency(catalog, self._shelf, device, self._budget))
        self.engine = Engine(self._loader, device, EngineConfig(max_queue=settings.max_queue))
        self._state = "loading_models"
        self._errors: dict[str, str] = {}
        self._startup_error: str | None = None

    @classmethod
    def start(cls) -> EngineHost:
        """Start the engine as the environment says; the first variant loads meanwhile."""
        settings = load_settings()
        configure_logs(settings, "runner")
        configure_tracing(settings)
        clock = BootClock(record=record_boot_phase)
        clock.finish("imports")
        catalog = load_catalog(settings.catalog)
        host = cls(catalog, settings, Device.best(catalog.dtype), clock)
        clock.finish("store")
        host.engine.start()
        # A daemon: a stop need not wait for a download, which the next start goes on with.
        Thread(target=host._boot, name="boot", daemon=True).start()
        return host

    async def load(self, order: LoadOrder) -> str | None:
        """Load what is named, the first ones for what is not; an error message or None."""
        try:
            model, controlnet = self._first()
            future = self._loader.load(order.model or model, order.controlnet or controlnet)
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
        errors = self._errors | residency.errors
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
            downloads={file.name: file.as_dict() for file in self._progress.snapshot()},
            began=self._began,
            resident_bytes=residency.resident_bytes,
            gpu_utilization=self._gpu.utilization(),
        )

    def close(self) -> None:
        """Stop after the current step."""
        self.engine.close()
        self._loader.close()
        flush_traces()

    def _first(self) -> tuple[str, str]:
        """The variant and the ControlNet that are loaded first.

        Raises:
            LoadError: the store has none.
        """
        found = self._shelf.inventory
        if not found.models or not found.controlnets:
            raise LoadError(how_to_import(self._catalog, missing(self._catalog, found)))
        return (
            self._settings.preload_model or default_name(found.models, self._catalog.default_model),
            default_name(found.controlnets, self._catalog.default_controlnet),
        )

    def _boot(self) -> None:
        """From a running engine to a ready one; what is in the way ends up in the status."""
        try:
            if self._shelf.growing:
                self._fetch()
                self._clock.finish("fetch")
            self._warm_up(*self._load_first())
        except (LoadError, WarmUpError) as error:
            self._fail(str(error))
        except CancelledError:
            log.info("stopped during the start")
        except Exception:
            log.exception("start failed")
            self._fail("the warm-up failed")

    def _fetch(self) -> None:
        """Import what is missing; what is there is served even if that fails."""
        # Imported here: Google's and the hub's clients take a second that other starts save.
        from models.fetching import FetchOptions
        from models.importing import ImportingError, import_catalog

        options = FetchOptions.of(self._settings.models_dir, self._settings.google_storage_base)
        try:
            new = import_catalog(self._catalog, options, self._progress)
            log.info("fetched", entries=new)
        except ImportingError as error:
            log.error("fetch failed", reason=str(error))
            self._errors["fetch"] = str(error)
        except Exception:
            log.exception("fetch failed")
            self._errors["fetch"] = "the missing weights could not be fetched"
        self._shelf.look()

    def _load_first(self) -> tuple[Variant, ControlNet]:
        absent = missing(self._catalog, self._shelf.inventory)
        if absent:
            log.warning(how_to_import(self._catalog, absent))
        model, controlnet = self._first()
        self._loader.load(model, controlnet).result()
        residency = self._loader.residency
        loaded = residency.load_variant(model), residency.load_controlnet(controlnet)
        self._clock.finish("load", model=model, controlnet=controlnet)
        return loaded

    def _warm_up(self, variant: Variant, controlnet: ControlNet) -> None:
        def measure() -> None:
            warm_up(variant, controlnet, self._device, self.engine.cost)

        self._budget.start_work()
        self.engine.call(measure).result()
        there = self._shelf.inventory.models
        sizes = {self._catalog.models[name].native_size for name in there}
        painted = paint_sizes(self.engine, variant, controlnet, sizes)
        self._budget.end_work()
        pictures = {str(size): round(seconds, 3) for size, seconds in painted.items()}
        self._clock.finish("warm_up", max_rows=self.engine.cost.max_rows, pictures=pictures)
        self._state = "ready"
        self._clock.finish_all(model=variant.name, device=str(self._device.torch_device))
        announce_ready()

    def _fail(self, reason: str) -> None:
        log.error("not ready", reason=reason)
        self._state, self._startup_error = "error", reason
