"""Compiled blocks: the same pictures, and no second compilation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.workbench import (
    CONTROLNET,
    DEVICE,
    WEIGHTS,
    component_folders,
    demo_catalog,
    make_job,
)
from models.sources import parse_source
from runners.compilation import Compiler, compiled_graphs
from runners.conditioning import Conditioner
from runners.denoise import predict_noise
from runners.messages import LoraWeight
from runners.networks import ControlNet, Variant, load_component, split_hint
from runners.sample import Sample

SETS = [
    (),
    (LoraWeight("drone", 0.8),),
    (LoraWeight("drone", 0.3), LoraWeight("experimance", 0.6)),
    (LoraWeight("experimance", 1.1),),
    (LoraWeight("experimance", 0.2), LoraWeight("drone", 1.4)),
]
SIZES = [(64, 64), (96, 64), (64, 128)]


def fresh(compiler: Compiler) -> tuple[Variant, ControlNet]:
    """Networks of their own: what is compiled stays compiled."""
    catalog = demo_catalog()
    folders = component_folders(catalog, "lightning")
    parts = {kind: load_component(kind, folder, DEVICE) for kind, folder in folders.items()}
    variant = Variant.of("lightning", catalog.models["lightning"], parts, text_key="demo")
    for name, lora in catalog.loras.items():
        variant.adapters.add(name, Path(parse_source(lora.source, catalog.folder).path))
    controlnet = split_hint(
        CONTROLNET, load_component("controlnet", WEIGHTS / "controlnet", DEVICE)
    )
    compiler.variant(variant, DEVICE)
    compiler.regions(controlnet.network)
    return variant, controlnet


def predictions(
    networks: tuple[Variant, ControlNet],
    loras: tuple[LoraWeight, ...],
    size: tuple[int, int],
    guidance: float,
    count: int = 1,
) -> torch.Tensor:
    job = make_job(
        np.full(size, 90, np.uint8), model="lightning", steps=2, guidance_scale=guidance,
        loras=loras, scheduler="euler",
    )  # fmt: skip
    with torch.inference_mode():
        conditioning = Conditioner(DEVICE).condition(job, *networks)
        samples = [Sample(job, n, *networks, conditioning, DEVICE) for n in range(count)]
        return torch.cat(predict_noise(samples, DEVICE))


@pytest.fixture(scope="module")
def compiled() -> Iterator[tuple[Variant, ControlNet]]:
    # The quick backend: graphs are traced and guarded as ever, and run as they are.
    compiler = Compiler("regional", backend="eager")
    assert compiler.active
    networks = fresh(compiler)
    # The ControlNet's blocks, for one row and for several.
    for guidance in (1.0, 2.0):
        predictions(networks, (), (64, 64), guidance)
    yield networks
    torch._dynamo.reset()


def test_no_set_of_loras_and_no_size_compiles_anew(
    compiled: tuple[Variant, ControlNet],
) -> None:
    before = compiled_graphs()
    assert before > 0
    for loras, size in zip(SETS, itertools.cycle(SIZES), strict=False):
        for guidance, count in ((1.0, 1), (2.0, 1), (1.0, 3)):
            predictions(compiled, loras, size, guidance, count)
    assert compiled_graphs() == before


@pytest.mark.parametrize("loras", SETS[:3], ids=len)
def test_what_is_compiled_computes_the_same(
    compiled: tuple[Variant, ControlNet], loras: tuple[LoraWeight, ...]
) -> None:
    plain = fresh(Compiler("off"))
    expected = predictions(plain, loras, (64, 64), 2.0)
    assert (predictions(compiled, loras, (64, 64), 2.0) - expected).abs().max() <= 1e-4


def test_without_a_compiler_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    compiler = Compiler("regional", backend="no-such-backend")
    assert not compiler.active
    assert "not compiled" in capsys.readouterr().out
    predictions(fresh(compiler), (), (64, 64), 1.0)
