"""One device: its engine, and the weights that it holds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from concurrent.futures import Future

from api.settings import Settings
from models.catalog import Catalog
from models.shelf import Shelf
from runners.attention import choose_attention
from runners.budget import Budget
from runners.compilation import Compiler
from runners.device import Device
from runners.engine import Engine, EngineConfig
from runners.estimates import Estimates
from runners.gpu_load import GpuLoad
from runners.loader import Loader
from runners.messages import PaintJob
from runners.networks import ControlNet, Variant
from runners.residency import Residency
from runners.warmup import paint_sizes, warm_up

_LOAD_SECONDS = 3.0
"""What bringing a variant to the device is taken to cost: its bytes over a disk's 2 GB/s."""


class Station:
    """An engine on a device of its own, with loader, budget and weights; one for each GPU."""

    def __init__(
        self, catalog: Catalog, shelf: Shelf, device: Device, settings: Settings, stations: int = 1
    ) -> None:
        self.device = device
        self.gpu = GpuLoad(device)
        self.budget = Budget(device, settings.vram_budget_gb)
        choose_attention(settings.attention_backend, device)
        compiler = Compiler(settings.compile, device=device)
        self.residency = Residency(catalog, shelf, device, self.budget, compiler)
        self._loader = Loader(self.residency)
        share = EngineConfig(
            max_queue=math.ceil(settings.max_queue / stations),
            max_queue_seconds=settings.max_queue_seconds,
        )
        self.engine = Engine(self._loader, device, share)
        self.estimates = Estimates(self._loader, self.engine, share.max_queue)
        self.engine.call(compiler.settle)

    def load(self, model: str, controlnet: str) -> Future[None]:
        """Start loading both; the future raises LoadError."""
        return self._loader.load(model, controlnet)

    def loaded(self, model: str, controlnet: str) -> tuple[Variant, ControlNet]:
        """Both, loaded now if they are not there; raises LoadError."""
        self.load(model, controlnet).result()
        return self.residency.load_variant(model), self.residency.load_controlnet(controlnet)

    def seconds_until(self, job: PaintJob) -> float:
        """When this station would begin with a job: its queue, and weights it does not have."""
        absent = job.model not in self.residency.variants
        absent_too = job.controlnet not in self.residency.controlnets
        return self.engine.snapshot()[2] + _LOAD_SECONDS * (absent + absent_too)

    def seconds_until_estimate(self, estimator: str) -> float:
        """When it would begin with a photograph: likewise."""
        absent = estimator not in self.residency.estimators
        return self.estimates.waiting() + self.engine.snapshot()[2] + _LOAD_SECONDS * absent

    def warm_up(
        self, variant: Variant, controlnet: ControlNet, sizes: Iterable[int]
    ) -> Mapping[int, float]:
        """The first steps and pictures; seconds of the latter by size. Raises WarmUpError."""
        self.budget.start_work()
        self.engine.call(
            lambda: warm_up(variant, controlnet, self.device, self.engine.cost)
        ).result()
        painted = paint_sizes(self.engine, variant, controlnet, sizes)
        self.budget.end_work()
        return painted

    def close(self) -> None:
        """Stop after the current step."""
        self.engine.close()
        self._loader.close()
        self.estimates.close()
