"""Isolation of requests: random sequences on one engine, compared with fresh engines."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from common.protocol import GenerateJob, LoraMode, LoraWeight
from common.scheduler_table import SCHEDULERS
from models.demo.training.data.terrain import make_terrain
from runners.engine.engine import Engine
from runners.networks.lora.working_copy import WorkingCopy
from runners.networks.sdxl import ControlNet, SdxlModel
from testing.workbench import (
    DEVICE,
    Listener,
    ResidentLoader,
    demo_catalog,
    demo_networks,
    make_job,
)
from tests.support.runner.jobs import TickingClock, await_end, drain, pictures

Networks = dict[str, tuple[SdxlModel, ControlNet]]

DEPTHS = [make_terrain(seed, size).depth for seed, size in ((1, (64, 64)), (2, (64, 72)))]
LORAS = st.dictionaries(
    st.sampled_from(sorted(demo_catalog().loras)),
    st.sampled_from([-2.0, 0.3, 1.0, 4.0]),
    max_size=2,
)


@st.composite
def jobs(draw: st.DrawFn) -> GenerateJob:
    loras = draw(LORAS)
    start, end = sorted(draw(st.tuples(*[st.sampled_from([0.0, 0.4, 1.0])] * 2)))
    guided_from, guided_until = sorted(draw(st.tuples(*[st.sampled_from([0.0, 0.5, 1.0])] * 2)))
    return make_job(
        draw(st.sampled_from(DEPTHS)),
        model=draw(st.sampled_from(sorted(demo_catalog().models))),
        prompt=draw(st.sampled_from([era.prompt for era in demo_catalog().eras.values()])),
        negative_prompt=draw(st.sampled_from([None, "", "blurry"])),
        seed=draw(st.integers(0, 2**63 - 1)),
        num_images=draw(st.integers(1, 2)),
        steps=draw(st.integers(1, 4)),
        guidance_scale=draw(st.sampled_from([0.0, 1.0, 2.0, 4.0])),
        guidance_start=guided_from,
        guidance_end=guided_until,
        controlnet_strength=draw(st.sampled_from([0.0, 0.8, 1.5])),
        control_guidance_start=start,
        control_guidance_end=end,
        scheduler=draw(st.sampled_from(["auto", *SCHEDULERS])),
        loras=tuple(LoraWeight(name, loras[name]) for name in sorted(loras)),
        decoder=draw(st.sampled_from(["full", "tiny"])),
    )


@cache
def _untouched(name: str) -> dict[str, Any]:
    """The parts of a variant and its ControlNet, to be copied."""
    variant, controlnet = demo_networks(name)
    # Other tests may have hung their adapters on the shared UNet.
    unet = type(variant.unet).from_config(variant.unet.config)
    unet.load_state_dict(variant.unet.state_dict())
    return {
        "tokenizer": variant.tokenizers[0],
        "tokenizer_2": variant.tokenizers[1],
        "text_encoder": variant.text_encoders[0],
        "text_encoder_2": variant.text_encoders[1],
        "unet": unet.eval().requires_grad_(False),
        "vae": variant.vae,
        "tiny_decoder": variant.tiny_decoder,
        "controlnet": controlnet,
    }


def _fresh(lora_mode: LoraMode, *models: str) -> Networks:
    """Networks that no request has touched; of all variants by default."""
    made = {}
    working_copy = WorkingCopy() if lora_mode == "merged" else None
    for name in models or demo_catalog().models:
        copies = copy.deepcopy(_untouched(name))
        controlnet = copies.pop("controlnet")
        spec = demo_catalog().models[name]
        variant = SdxlModel.from_components(name, spec, copies, "fresh", working_copy)
        made[name] = variant, controlnet
    return made


@pytest.fixture(scope="module")
def pristine() -> Networks:
    return _fresh("low_rank")


@pytest.fixture(scope="module", params=["merged", "low_rank"])
def lora_mode(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def shared_networks(lora_mode: LoraMode) -> Networks:
    return _fresh(lora_mode)


@pytest.fixture(scope="module")
def shared_engine(shared_networks: Networks) -> Iterator[Engine]:
    """One engine that paints every example of the test, one after another."""
    engine = _engine(shared_networks)
    yield engine
    engine.close()


def _engine(networks: Networks) -> Engine:
    loader: Any = ResidentLoader(networks)
    engine = Engine(loader, DEVICE, clock=TickingClock())
    engine.cost.max_batch_rows = 8
    return engine


def _alone(job: GenerateJob, lora_mode: LoraMode) -> list[np.ndarray[Any, Any]]:
    engine = _engine(_fresh(lora_mode, job.model))
    listener = Listener()
    engine.submit(job, listener)
    drain(engine)
    engine.close()
    return pictures(listener)


@pytest.mark.slow
@settings(
    max_examples=4,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(sequence=st.lists(jobs(), min_size=3, max_size=6), data=st.data())
def test_a_picture_does_not_depend_on_other_requests(
    shared_engine: Engine,
    lora_mode: LoraMode,
    sequence: list[GenerateJob],
    data: st.DataObject,
) -> None:
    listeners = [Listener() for _ in sequence]
    for number, (job, listener) in enumerate(zip(sequence, listeners, strict=True)):
        shared_engine.submit(replace(job, request_id=f"job-{number}"), listener)
        for _ in range(data.draw(st.integers(0, 3))):
            shared_engine.tick()
    drain(shared_engine)
    for job, listener in zip(sequence, listeners, strict=True):
        await_end(listener)
        for mine, theirs in zip(pictures(listener), _alone(job, lora_mode), strict=True):
            assert np.abs(mine.astype(int) - theirs).max() <= 1


@pytest.mark.slow
def test_the_networks_are_as_they_were(shared_networks: Networks, pristine: Networks) -> None:
    """After everything that the shared engine has painted, its weights are the files' still."""
    for name, (variant, controlnet) in shared_networks.items():
        variant.loras.prepare(())
        for mine, clean in (
            (variant.unet, pristine[name][0].unet),
            (controlnet.network, pristine[name][1].network),
        ):
            state = clean.state_dict()
            assert all(
                bool((value == state[key]).all()) for key, value in mine.state_dict().items()
            )
