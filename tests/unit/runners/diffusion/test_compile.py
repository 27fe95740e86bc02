"""Compiled blocks: the same pictures, and no second compilation."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch

from common.protocol import LoraWeight
from common.settings import Settings
from models.sources.base import parse_source
from models.store.inventory import LiveInventory
from runners.diffusion.compile import Compiler, compiled_graphs
from runners.diffusion.conditioning import ConditioningBuilder
from runners.diffusion.denoise import predict_noise
from runners.diffusion.sample import Sample
from runners.networks.loading import extract_hint_embedding, load_component
from runners.networks.lora.working_copy import WorkingCopy
from runners.networks.sdxl import ControlNet, SdxlModel
from runners.server.device_worker import DeviceWorker
from testing.imports import store_at
from testing.workbench import (
    CONTROLNET,
    DEVICE,
    WEIGHTS,
    component_folders,
    demo_catalog,
    make_job,
)

pytestmark = pytest.mark.slow

T = TypeVar("T")
SETS = [
    (),
    (LoraWeight("drone", 0.8),),
    (LoraWeight("drone", 0.3), LoraWeight("experimance", 0.6)),
    (LoraWeight("experimance", 1.1),),
    (LoraWeight("experimance", 0.2), LoraWeight("drone", 1.4)),
    (LoraWeight("drone", 0.8), LoraWeight("experimance", 0.4)),
    (LoraWeight("drone", 0.6), LoraWeight("experimance", 0.5)),
    (LoraWeight("drone", 2.0),),
    (LoraWeight("experimance", 0.1),),
    (LoraWeight("drone", -0.5), LoraWeight("experimance", 1.0)),
]
SIZES = [(64, 64), (96, 64), (64, 128)]


def fresh(compiler: Compiler, lora_mode: str = "low_rank") -> tuple[SdxlModel, ControlNet]:
    """Networks of their own: what is compiled stays compiled."""
    catalog = demo_catalog()
    folders = component_folders(catalog, "lightning")
    parts = {kind: load_component(kind, folder, DEVICE) for kind, folder in folders.items()}
    copy = WorkingCopy() if lora_mode == "merged" else None
    spec = catalog.models["lightning"]
    variant = SdxlModel.from_components("lightning", spec, parts, "demo", copy)
    for name, lora in catalog.loras.items():
        variant.loras.add(name, Path(parse_source(lora.source, catalog.folder).path))
    controlnet = extract_hint_embedding(
        CONTROLNET, load_component("controlnet", WEIGHTS / "controlnet", DEVICE)
    )
    compiler.compile_unet(variant, DEVICE)
    compiler.compile_controlnet(controlnet, DEVICE)
    return variant, controlnet


def predictions(
    networks: tuple[SdxlModel, ControlNet],
    loras: tuple[LoraWeight, ...],
    size: tuple[int, int],
    guidance: float,
    count: int = 1,
) -> torch.Tensor:
    job = make_job(
        np.full(size, 90, np.uint8), model="lightning", steps=2, guidance_scale=guidance,
        loras=loras, scheduler="euler", num_images=count,
    )  # fmt: skip
    with torch.inference_mode():
        conditioning = ConditioningBuilder(DEVICE).build(job, *networks)
        samples = [Sample(job, n, *networks, conditioning) for n in range(count)]
        return torch.cat(predict_noise(samples, DEVICE))


def elsewhere(work: Callable[[], T]) -> T:
    """What a call gives on a thread of its own, where torch's options are the default ones."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


class FailingBackend:
    """Compiles what is tried first, and nothing after."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> torch.fx.GraphModule:
        self.calls += 1
        if self.calls > 1:
            raise RuntimeError("it broke")
        return graph


@pytest.fixture(scope="module", params=["merged", "low_rank"])
def compiled_networks(request: pytest.FixtureRequest) -> Iterator[tuple[SdxlModel, ControlNet]]:
    # The quick backend: graphs are traced and guarded as ever, and run as they are.
    compiler = Compiler("regional", backend="eager")
    assert compiler.active
    # As in the service: loaded on one thread, used on another.
    yield elsewhere(partial(fresh, compiler, request.param))
    torch.compiler.reset()


@pytest.fixture(scope="module")
def eager_networks() -> tuple[SdxlModel, ControlNet]:
    return fresh(Compiler("off"))


def test_loras_and_sizes_cause_no_recompilation(
    compiled_networks: tuple[SdxlModel, ControlNet],
) -> None:
    before = compiled_graphs()
    assert before > 0
    for loras, size in zip(SETS, itertools.cycle(SIZES), strict=False):
        for guidance, count in ((1.0, 1), (2.0, 1), (1.0, 3)):
            predictions(compiled_networks, loras, size, guidance, count)
    assert compiled_graphs() == before


@pytest.mark.parametrize("loras", SETS[:3], ids=len)
def test_compiled_predictions_equal_eager_ones(
    compiled_networks: tuple[SdxlModel, ControlNet],
    eager_networks: tuple[SdxlModel, ControlNet],
    loras: tuple[LoraWeight, ...],
) -> None:
    expected = predictions(eager_networks, loras, (64, 64), 2.0)
    assert (predictions(compiled_networks, loras, (64, 64), 2.0) - expected).abs().max() <= 1e-4


def test_missing_compiler_falls_back_to_eager(capsys: pytest.CaptureFixture[str]) -> None:
    compiler = Compiler("regional", backend="no-such-backend")
    assert not compiler.active
    assert "not compiled" in capsys.readouterr().out
    predictions(fresh(compiler), (), (64, 64), 1.0)


def test_uncompilable_block_runs_eagerly_on_every_thread(
    eager_networks: tuple[SdxlModel, ControlNet],
) -> None:
    backend = FailingBackend()
    compiler = Compiler("regional", backend=backend)
    assert compiler.active
    networks = elsewhere(partial(fresh, compiler))
    assert backend.calls > 1

    def step() -> torch.Tensor:
        compiler.configure_thread()
        return predictions(networks, SETS[2], (64, 64), 2.0)

    result = elsewhere(step)
    expected = predictions(eager_networks, SETS[2], (64, 64), 2.0)
    torch.compiler.reset()
    assert torch.equal(result, expected)


def test_device_worker_configures_dynamo_on_engine_thread(tmp_path: Path) -> None:
    # The public torch.compiler.config has neither option.
    options = torch._dynamo.config  # noqa: SLF001
    with store_at(tmp_path):
        worker = DeviceWorker(demo_catalog(), LiveInventory(demo_catalog()), DEVICE, Settings())
    worker.model_cache.compiler.active = True

    def look() -> tuple[bool, bool]:
        worker.engine.tick()
        return options.suppress_errors, options.skip_nnmodule_hook_guards

    try:
        assert elsewhere(look) == (True, False)
    finally:
        worker.close()
