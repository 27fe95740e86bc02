"""Device worker: the engine, weights and memory budget of one device."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future

from common.protocol import GenerateJob
from common.settings import Settings
from models.catalog import Catalog
from models.store.inventory import LiveInventory
from runners.device import Device, GpuUtilization
from runners.device_faults import DeviceFaults
from runners.diffusion.compile import Compiler
from runners.engine.depth_jobs import DepthJobQueue
from runners.engine.engine import Engine, EngineConfig
from runners.networks.attention_backends import select_backend
from runners.networks.sdxl import ControlNet, SdxlModel
from runners.server.kernel_choice import choose_kernels
from runners.server.warmup import generate_one_per_size, warm_up
from runners.weights.background_loader import BackgroundLoader
from runners.weights.model_cache import ModelCache
from runners.weights.vram_budget import VramBudget


class DeviceWorker:
    """Worker with the engine, loader, memory budget and weights of one device.

    Args:
        catalog: the catalog of models.
        live_inventory: the store's entries.
        device: the device of the engine.
        settings: the runner's settings.
        workers: number of workers that share `max_queue`.
    """

    def __init__(
        self,
        catalog: Catalog,
        live_inventory: LiveInventory,
        device: Device,
        settings: Settings,
        workers: int = 1,
    ) -> None:
        self.device = device
        self._fp16_accumulation = settings.fp16_accumulation
        self.gpu = GpuUtilization(device)
        self.budget = VramBudget(device, settings.vram_budget_gb)
        select_backend(settings.attention_backend, device)
        compiler = Compiler(settings.compile, device=device)
        # No load starts before the engine and the queue of depth jobs exist.
        self.model_cache = ModelCache(
            catalog,
            live_inventory,
            device,
            self.budget,
            compiler,
            self.weights_in_use,
            lambda: self.engine.weights_wanted_next(),
        )
        faults = DeviceFaults(device)
        self._loader = BackgroundLoader(
            self.model_cache, lambda: self.engine.wake(), faults.examine
        )
        share = EngineConfig(
            max_queue=math.ceil(settings.max_queue / workers),
            max_queue_seconds=settings.max_queue_seconds,
        )
        self.engine = Engine(self._loader, device, share, faults=faults)
        self.estimates = DepthJobQueue(self._loader, self.engine, share.max_queue)
        self.engine.run_on_device_thread(compiler.configure_thread)

    def load(self, model: str, controlnet: str, loras: Sequence[str] = ()) -> Future[None]:
        """Start loading a variant, a ControlNet and LoRAs; the future raises LoadError."""
        return self._loader.load(model, controlnet, loras)

    def ensure_loaded(self, model: str, controlnet: str) -> tuple[SdxlModel, ControlNet]:
        """Return a variant and a ControlNet, and load them first if necessary.

        Raises:
            LoadError: one of them could not be loaded.
        """
        self.load(model, controlnet).result()
        return self.model_cache.load_variant(model), self.model_cache.load_controlnet(controlnet)

    def weights_in_use(self) -> set[str]:
        """Return what the model cache must not evict: names and keys of its entries."""
        return self.engine.weights_in_use() | self.estimates.weights_in_use()

    def estimated_start_delay(self, job: GenerateJob) -> float:
        """Estimate the seconds until a job starts here: the backlog plus missing weights."""
        return self.engine.load()[2] + self.model_cache.load_seconds(job.model, job.controlnet)

    def seconds_until_estimate(self, estimator: str) -> float:
        """Estimate the seconds until a depth estimate starts here."""
        load = self.model_cache.load_seconds(estimator=estimator)
        return self.estimates.waiting() + self.engine.load()[2] + load

    def warm_up(
        self, variant: SdxlModel, controlnet: ControlNet, sizes: Iterable[int]
    ) -> Mapping[int, float]:
        """Choose a GPU's kernels, run the first steps, generate one image per size.

        The memory that all of it takes is measured for the budget.

        Args:
            variant: a resident variant.
            controlnet: a resident ControlNet.
            sizes: edge lengths of the images in pixels.

        Returns:
            Seconds per image by size.

        Raises:
            WarmUpError: an image could not be generated.
        """
        if self.device.torch_device.type == "cuda":
            is_compiled = self.model_cache.compiler.active
            self.engine.run_on_device_thread(
                lambda: choose_kernels(
                    variant,
                    controlnet,
                    self.device,
                    self.model_cache.formats,
                    is_compiled,
                    self._fp16_accumulation,
                )
            ).result()
        self.budget.begin_measurement()
        self.engine.run_on_device_thread(
            lambda: warm_up(variant, controlnet, self.device, self.engine.cost)
        ).result()
        durations = generate_one_per_size(self.engine, variant, controlnet, sizes)
        self.budget.end_measurement()
        return durations

    def close(self) -> None:
        """Stop the engine after the current step, then end loads and depth jobs."""
        self.engine.close()
        self._loader.close()
        self.estimates.close()
