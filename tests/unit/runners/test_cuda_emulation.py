"""The engine on fake CUDA tensors of SDXL's true size.

A step fails here if it mixes devices or dtypes, reads a value of the device, or makes the host wait
for a copy. docs/performance.md lists what the emulation cannot see.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file
from torch._subclasses.fake_tensor import FakeTensorMode

import runners.engine.engine
from benchmarks.flops import installation_job
from common.protocol import GenerateJob, JobDone, LoraWeight, Step
from common.scheduler_table import SCHEDULER_NAMES
from runners.device import Device
from runners.diffusion.batch import BatchCache
from runners.diffusion.denoise import predict_noise
from runners.diffusion.sample import Sample
from runners.diffusion.step_plan import plan_steps
from runners.engine.engine import Engine, EngineConfig
from runners.networks.sdxl import ControlNet, SdxlModel
from runners.networks.weight_upload import WeightUploader
from testing.op_count import ATTENTION, OperatorCount
from testing.random_networks import write_lora
from testing.workbench import Listener, ResidentLoader, drain
from tests.support.runner.fake_cuda import CUDA, FakeCopyStream, cuda_networks, fake_cuda

pytestmark = pytest.mark.slow

Networks = tuple[SdxlModel, ControlNet]
SIDE = 1024
JOB = replace(installation_job(SIDE), steps=2, control_guidance_end=1.0)


LARGE = installation_job(1280)


@pytest.fixture(scope="module")
def mode() -> FakeTensorMode:
    return FakeTensorMode(allow_non_fake_inputs=True)


@pytest.fixture(scope="module")
def networks(mode: FakeTensorMode) -> Networks:
    return cuda_networks(mode)


def paint(
    networks: Networks, mode: FakeTensorMode, *jobs: GenerateJob, free_bytes: int = 20 * 2**30
) -> tuple[OperatorCount, list[Listener]]:
    """Paint jobs together; return the operators and what the callers got."""
    for job in jobs:
        # A plan consists of numbers, which fake tensors do not have.
        spec = networks[0].spec.scheduler
        plan_steps(spec, job.scheduler, job.use_karras_sigmas, job.steps, job.first_step)
    loader: Any = ResidentLoader({"lightning": networks})
    count = OperatorCount("cuda")
    listeners = [Listener() for _ in jobs]
    with fake_cuda(mode, free_bytes):
        engine = Engine(loader, CUDA, EngineConfig(preview_interval=0))
        engine.cost.max_batch_rows = 32
        for job, listener in zip(jobs, listeners, strict=True):
            engine.submit(job, listener)
        with count.watching():
            drain(engine)
        engine.close()
    return count, listeners


def check(count: OperatorCount, listeners: Sequence[Listener], admissions: int = 1) -> None:
    for listener in listeners:
        assert isinstance(listener.events[-1], JobDone), listener.events[-1]
    assert not count.waits
    assert not count.blocking
    assert count.copies.total() == admissions


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_no_scheduler_waits_for_the_device(
    guidance: float, networks: Networks, mode: FakeTensorMode
) -> None:
    """One request of each, in one batch."""
    jobs = [
        replace(JOB, request_id=name, scheduler=name, guidance_scale=guidance)
        for name in SCHEDULER_NAMES
    ]
    count, listeners = paint(networks, mode, *jobs)
    check(count, listeners, admissions=len(jobs))
    assert count.launches[ATTENTION] < 200 * JOB.steps, "they shared their steps"


CASES: dict[str, dict[str, Any]] = {
    "control window": {"control_guidance_end": 0.5},
    "no control": {"controlnet_strength": 0.0},
    "img2img": {
        "image": bytes(3 * SIDE * SIDE), "strength": 1.0, "steps": 2, "scheduler": "euler_a"
    },
    "deepcache": {"enable_deepcache": True, "steps": 3},
    "previews, two pictures": {"previews": True, "num_images": 2},
    "tiny decoder, long prompt": {"decoder": "tiny", "prompt": "rivers and hills, " * 60},
}  # fmt: skip


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_request_never_waits_for_the_device(
    changes: dict[str, Any], networks: Networks, mode: FakeTensorMode
) -> None:
    count, listeners = paint(networks, mode, replace(JOB, **changes))
    check(count, listeners)
    steps = [event for event in listeners[0].events if isinstance(event, Step)]
    assert steps
    assert all(step.preview for step in steps) == bool(changes.get("previews"))


def test_loras_act_without_waiting(
    networks: Networks, mode: FakeTensorMode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loras = networks[0].loras
    for seed, name in enumerate(("first", "second")):
        file = tmp_path / f"{name}.safetensors"
        write_lora(file, networks[0].unet, rank=2, seed=seed)
        tensors = load_file(file)
        # Fake tensors cannot be read from a file.
        monkeypatch.setattr("runners.networks.lora.load_file", lambda _, read=tensors: read)
        with fake_cuda(mode):
            loras.add(name, file, WeightUploader(CUDA, FakeCopyStream()))
    weights = (LoraWeight("first", 0.8), LoraWeight("second", 0.4))
    plain, _ = paint(networks, mode, JOB)
    count, listeners = paint(networks, mode, replace(JOB, loras=weights))
    check(count, listeners)
    assert count.launches.total() > plain.launches.total()


def test_decode_in_tiles(networks: Networks, mode: FakeTensorMode) -> None:
    job = replace(JOB, **{name: getattr(LARGE, name) for name in ("width", "height", "depth")})
    whole, _ = paint(networks, mode, job)
    tiled, listeners = paint(networks, mode, job, free_bytes=2**28)
    check(tiled, listeners)
    assert tiled.launches["convolution"] > whole.launches["convolution"]


def test_mixed_control_windows_share_a_batch(networks: Networks, mode: FakeTensorMode) -> None:
    jobs = [
        replace(JOB, request_id="short", control_guidance_end=0.4),
        replace(JOB, request_id="whole", seed=1),
    ]
    count, listeners = paint(networks, mode, *jobs)
    check(count, listeners, admissions=2)


def test_out_of_memory_is_recovered(
    networks: Networks, mode: FakeTensorMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []

    def small_card(
        samples: Sequence[Sample], device: Device, batches: BatchCache
    ) -> list[torch.Tensor]:
        rows.append(sum(sample.batch_rows for sample in samples))
        if rows[-1] > 2:
            raise torch.OutOfMemoryError
        return predict_noise(samples, device, batches)

    monkeypatch.setattr(runners.engine.engine, "predict_noise", small_card)
    jobs = [replace(JOB, request_id=name, guidance_scale=1.0) for name in "abc"]
    count, listeners = paint(networks, mode, *jobs)
    check(count, listeners, admissions=3)
    assert rows[0] == 3
    assert max(rows[1:]) <= 3
