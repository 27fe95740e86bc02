"""Runner application: startup from settings and store, one engine per device, status reports."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError
from threading import Thread

import psutil
import structlog

from common.lifecycle import print_ready_line
from common.log_config import configure_logs
from common.process_memory import trim_heap
from common.protocol import LoadCommand, RunnerStatus
from common.settings import Settings, load_settings
from common.tracing import configure_tracing, flush_traces
from models.catalog import Catalog, load_catalog
from models.sources.progress import Progress
from models.store.inventory import LiveInventory, import_hint, missing_entries, pick_default
from runners.device import Device, memory_usage
from runners.errors import LoadError, WarmUpError
from runners.metrics import DownloadMeter, initialize_labels, record_boot_phase
from runners.server.device_worker import DeviceWorker
from runners.server.mps_probe import available_devices
from runners.server.router import EngineRouter
from runners.server.startup_timer import StartupTimer

log = structlog.get_logger(__name__)


class RunnerApp:
    """Runner application with one engine per device, from start to close.

    Args:
        catalog: the catalog of models.
        settings: the runner's settings.
        devices: the devices, one engine each.
        clock: timer of the startup phases.
    """

    def __init__(
        self, catalog: Catalog, settings: Settings, devices: Sequence[Device], clock: StartupTimer
    ) -> None:
        self._clock = clock
        self._catalog = catalog
        self._settings = settings
        self._live_inventory = LiveInventory(catalog, settings.fetch_missing)
        self._progress = Progress(DownloadMeter())
        self._started_at = psutil.Process().create_time()
        initialize_labels(catalog)
        self.pool = EngineRouter(
            [
                DeviceWorker(catalog, self._live_inventory, device, settings, len(devices))
                for device in devices
            ]
        )
        self._state = "loading_models"
        self._errors: dict[str, str] = {}
        self._startup_error: str | None = None

    @classmethod
    def start(cls) -> RunnerApp:
        """Start the engines with settings from the environment and load weights in a thread."""
        settings = load_settings()
        configure_logs(settings, "runner")
        configure_tracing(settings)
        clock = StartupTimer(record=record_boot_phase)
        clock.end_phase("imports")
        catalog = load_catalog(settings.catalog)
        host = cls(catalog, settings, available_devices(catalog, settings), clock)
        clock.end_phase("store")
        for worker in host.pool.workers:
            worker.engine.start()
        # A daemon thread, so that shutdown does not wait for a download; the next start resumes it.
        Thread(target=host.boot, name="boot", daemon=True).start()
        return host

    def boot(self) -> None:
        """Fetch, load and warm up once the engines run; a failure ends up in the status."""
        try:
            if self._live_inventory.is_fetching:
                self._fetch()
                self._clock.end_phase("fetch")
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

    async def load(self, command: LoadCommand) -> str | None:
        """Load the named entries, or the default ones, on every device.

        Returns:
            An error message, or None on success.
        """
        try:
            model, controlnet = self._default_models()
            wanted = command.model or model, command.controlnet or controlnet
            loads = [worker.load(*wanted) for worker in self.pool.workers]
            await asyncio.gather(*map(asyncio.wrap_future, loads))
        except LoadError as error:
            return str(error)
        return None

    def unload(self, command: LoadCommand) -> tuple[str, ...]:
        """Unload the named entries from every device; return the names of resident ones."""
        dropped = []
        for worker in self.pool.workers:
            if command.model is not None and worker.model_cache.unload_variant(command.model):
                dropped.append(command.model)
            if command.controlnet is not None and worker.model_cache.unload_controlnet(
                command.controlnet
            ):
                dropped.append(command.controlnet)
        if dropped:
            # Idle engines trimmed the heap before this memory became free.
            trim_heap()
        return tuple(dict.fromkeys(dropped))

    def status(self) -> RunnerStatus:
        """Return the runner's current status."""
        waiting, running, seconds = self.pool.snapshot()
        workers = self.pool.workers
        held = [worker.model_cache for worker in workers]
        ram, gpu = memory_usage([worker.device for worker in workers])
        errors = {k: v for each in held for k, v in each.errors.items()} | self._errors
        resident: Counter[str] = Counter()
        for each in held:
            resident.update(each.resident_bytes)
        loads = [load for s in workers if (load := s.gpu.utilization()) is not None]
        return RunnerStatus(
            state=self._state if self._can_paint_default(errors) else "degraded",
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
            started_at=self._started_at,
            resident_bytes=dict(resident),
            gpu_utilization=sum(loads) / len(loads) if loads else None,
            retry_after=self.pool.retry_after(),
            lora_modes={name: mode for each in held for name, mode in each.lora_modes.items()},
        )

    def _can_paint_default(self, errors: Mapping[str, str]) -> bool:
        """Return whether the default variant and ControlNet can be used, or the start goes on."""
        found = self._live_inventory.inventory
        defaults = (
            ("model", self._catalog.default_model, found.models),
            ("controlnet", self._catalog.default_controlnet, found.controlnets),
        )
        return self._state != "ready" or all(
            name in there and f"{what} {name}" not in errors for what, name, there in defaults
        )

    @property
    def _devices(self) -> str:
        return ", ".join(str(worker.device.torch_device) for worker in self.pool.workers)

    def close(self) -> None:
        """Stop every engine after its current step, then flush traces."""
        self.pool.close()
        flush_traces()

    def _default_models(self) -> tuple[str, str]:
        """Return the names of the variant and the ControlNet that load at startup.

        Raises:
            LoadError: the store has no variant or no ControlNet.
        """
        found = self._live_inventory.inventory
        if not found.models or not found.controlnets:
            raise LoadError(import_hint(self._catalog, missing_entries(self._catalog, found)))
        return (
            self._settings.preload_model or pick_default(found.models, self._catalog.default_model),
            pick_default(found.controlnets, self._catalog.default_controlnet),
        )

    def _fetch(self) -> None:
        """Import missing weights; after a failure the runner serves the entries in the store."""
        # A lazy import, because the clients of Google and the hub take a second to import.
        from models.importer import ImportingError, import_catalog
        from models.sources.fetcher import FetchOptions

        options = FetchOptions.with_defaults(
            self._settings.models_dir,
            self._settings.google_storage_base,
            self._settings.trust_first_use,
        )
        try:
            new = import_catalog(self._catalog, options, self._progress, _log_import_line)
            log.info("fetched", entries=new)
        except ImportingError as error:
            log.error("fetch failed", reason=str(error))
            self._errors["fetch"] = str(error)
        except Exception:
            log.exception("fetch failed")
            self._errors["fetch"] = "the missing weights could not be fetched"
        self._live_inventory.refresh()

    def _load_first(self) -> None:
        absent = missing_entries(self._catalog, self._live_inventory.inventory)
        if absent:
            log.warning(import_hint(self._catalog, absent))
        model, controlnet = self._default_models()
        for load in [worker.load(model, controlnet) for worker in self.pool.workers]:
            load.result()
        loras = self._era_loras()
        for load in [worker.load(model, controlnet, loras) for worker in self.pool.workers]:
            # A LoRA that cannot be loaded is in the status, and requests without it work.
            with contextlib.suppress(LoadError):
                load.result()
        self._clock.end_phase("load", model=model, controlnet=controlnet, loras=loras)

    def _era_loras(self) -> list[str]:
        """Return the LoRAs in the store that eras use, each once."""
        used = {name for era in self._catalog.eras.values() for name in era.loras}
        return [name for name in self._live_inventory.inventory.loras if name in used]

    def _warm_up(self) -> None:
        model, controlnet = self._default_models()
        available = self._live_inventory.inventory.models
        sizes = {self._catalog.models[name].native_size for name in available}
        rows, pictures = 0, {}
        for worker in self.pool.workers:
            durations = worker.warm_up(*worker.ensure_loaded(model, controlnet), sizes)
            rows = worker.engine.cost.max_batch_rows
            pictures = {str(size): round(seconds, 3) for size, seconds in durations.items()}
        self._clock.end_phase("warm_up", max_batch_rows=rows, pictures=pictures)
        self._state = "ready"
        self._clock.end(model=model, device=self._devices)
        print_ready_line()

    def _fail(self, reason: str) -> None:
        log.error("not ready", reason=reason)
        self._state, self._startup_error = "error", reason


def go_offline() -> None:
    """Disable network access of all Hugging Face libraries in this process."""
    # The library reads the environment at import, so the constant must be set too.
    from huggingface_hub import constants

    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True


def _log_import_line(line: str) -> None:
    """Log a line of an import, as a warning if it reports an unverified first download."""
    from models.sources.fetcher import TRUSTED

    (log.warning if line.startswith(TRUSTED) else log.info)(line)
