"""The engine's household: reads settings and store, starts the engine, tells how it is."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Sequence
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
from runners.device import Device, memory_of
from runners.download_meter import DownloadMeter
from runners.failure import LoadError
from runners.heap import trim_heap
from runners.messages import LoadOrder, RunnerStatus
from runners.metrics import record_boot_phase, show_zeros
from runners.mps import available_devices
from runners.pool import Pool
from runners.station import Station
from runners.warmup import WarmUpError

log = structlog.get_logger(__name__)


class EngineHost:
    """The engines with their weights, one for each device, from start to close."""

    def __init__(
        self, catalog: Catalog, settings: Settings, devices: Sequence[Device], clock: BootClock
    ) -> None:
        self._clock = clock
        self._catalog = catalog
        self._settings = settings
        self._shelf = Shelf(catalog, settings.fetch_missing)
        self._progress = Progress(DownloadMeter())
        self._began = psutil.Process().create_time()
        show_zeros(catalog)
        self.pool = Pool(
            [Station(catalog, self._shelf, device, settings, len(devices)) for device in devices]
        )
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
        host = cls(catalog, settings, available_devices(catalog, settings), clock)
        clock.finish("store")
        for station in host.pool.stations:
            station.engine.start()
        # A daemon: a stop need not wait for a download, which the next start goes on with.
        Thread(target=host._boot, name="boot", daemon=True).start()
        return host

    async def load(self, order: LoadOrder) -> str | None:
        """Load what is named, the first ones for what is not, on every device; an error message
        or None."""
        try:
            model, controlnet = self._first()
            wanted = order.model or model, order.controlnet or controlnet
            loads = [station.load(*wanted) for station in self.pool.stations]
            await asyncio.gather(*map(asyncio.wrap_future, loads))
        except LoadError as error:
            return str(error)
        return None

    def unload(self, order: LoadOrder) -> tuple[str, ...]:
        """Forget what is named; returns what was resident."""
        dropped = []
        for station in self.pool.stations:
            if order.model is not None and station.residency.unload_variant(order.model):
                dropped.append(order.model)
            if order.controlnet is not None and station.residency.unload_controlnet(
                order.controlnet
            ):
                dropped.append(order.controlnet)
        if dropped:
            # What rests has given back already what was free then.
            trim_heap()
        return tuple(dict.fromkeys(dropped))

    def status(self) -> RunnerStatus:
        """The runner at this moment."""
        waiting, running, seconds = self.pool.snapshot()
        stations = self.pool.stations
        held = [station.residency for station in stations]
        ram, gpu = memory_of([station.device for station in stations])
        errors = {k: v for each in held for k, v in each.errors.items()} | self._errors
        resident: Counter[str] = Counter()
        for each in held:
            resident.update(each.resident_bytes)
        busy = [load for s in stations if (load := s.gpu.utilization()) is not None]
        return RunnerStatus(
            state="degraded" if self._state == "ready" and errors else self._state,
            loaded_models=tuple(dict.fromkeys(name for each in held for name in each.variants)),
            loaded_controlnets=tuple(
                dict.fromkeys(name for each in held for name in each.controlnets)
            ),
            waiting=waiting,
            running=running,
            estimated_seconds=seconds,
            ram_mb=ram,
            gpu_memory=gpu,
            device=self._devices,
            startup_error=self._startup_error,
            load_errors=errors,
            downloads={file.name: file.as_dict() for file in self._progress.snapshot()},
            began=self._began,
            resident_bytes=dict(resident),
            gpu_utilization=sum(busy) / len(busy) if busy else None,
            full=self.pool.full(),
        )

    @property
    def _devices(self) -> str:
        return ", ".join(str(station.device.torch_device) for station in self.pool.stations)

    def close(self) -> None:
        """Stop after the current step."""
        self.pool.close()
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
            go_offline()
            self._load_first()
            self._warm_up()
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

        options = FetchOptions.of(
            self._settings.models_dir,
            self._settings.google_storage_base,
            self._settings.trust_first_use,
        )
        try:
            new = import_catalog(self._catalog, options, self._progress, _say)
            log.info("fetched", entries=new)
        except ImportingError as error:
            log.error("fetch failed", reason=str(error))
            self._errors["fetch"] = str(error)
        except Exception:
            log.exception("fetch failed")
            self._errors["fetch"] = "the missing weights could not be fetched"
        self._shelf.look()

    def _load_first(self) -> None:
        absent = missing(self._catalog, self._shelf.inventory)
        if absent:
            log.warning(how_to_import(self._catalog, absent))
        model, controlnet = self._first()
        for load in [station.load(model, controlnet) for station in self.pool.stations]:
            load.result()
        self._clock.finish("load", model=model, controlnet=controlnet)

    def _warm_up(self) -> None:
        model, controlnet = self._first()
        there = self._shelf.inventory.models
        sizes = {self._catalog.models[name].native_size for name in there}
        rows, pictures = 0, {}
        for station in self.pool.stations:
            painted = station.warm_up(*station.loaded(model, controlnet), sizes)
            rows = station.engine.cost.max_rows
            pictures = {str(size): round(seconds, 3) for size, seconds in painted.items()}
        self._clock.finish("warm_up", max_rows=rows, pictures=pictures)
        self._state = "ready"
        self._clock.finish_all(model=model, device=self._devices)
        announce_ready()

    def _fail(self, reason: str) -> None:
        log.error("not ready", reason=reason)
        self._state, self._startup_error = "error", reason


def go_offline() -> None:
    """Have every library of this process take what the hub has from this machine alone."""
    # Both have read their environment when they were imported.
    from huggingface_hub import constants

    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True


def _say(line: str) -> None:
    """What an import tells, in the log."""
    from models.fetching import TRUSTED

    (log.warning if line.startswith(TRUSTED) else log.info)(line)
