"""The engine on fake CUDA tensors of SDXL's true size.

A step fails here if it mixes devices or dtypes, reads a value of the device, or makes the host wait
for a copy. docs/performance.md lists what the emulation cannot see.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file, save_file
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
from runners.networks.lora.manager import LoraManager
from runners.networks.lora.working_copy import WorkingCopy
from runners.networks.sdxl import ControlNet, SdxlModel
from runners.networks.weight_upload import WeightUploader
from testing.op_count import OperatorCount
from testing.random_networks import write_lora
from testing.workbench import Listener, ResidentLoader, drain
from tests.support.runner.expected_operators import EXPECTED_OPERATORS
from tests.support.runner.fake_cuda import CUDA, FakeCopyStream, cuda_networks, fake_cuda

pytestmark = pytest.mark.slow

Networks = tuple[SdxlModel, ControlNet]
SIDE = 1024
JOB = replace(installation_job(SIDE, loras=()), steps=2, control_guidance_end=1.0)
LORA_LAYER = "attentions.0.transformer_blocks.0."


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
        engine = Engine(loader, CUDA, EngineConfig(preview_interval=0, max_samples=32))
        engine.cost.max_batch_rows = 32
        for job, listener in zip(jobs, listeners, strict=True):
            engine.submit(job, listener)
        with count.watching():
            drain(engine)
        engine.close()
    return count, listeners


def check(count: OperatorCount, listeners: Sequence[Listener]) -> None:
    for listener in listeners:
        assert isinstance(listener.events[-1], JobDone), listener.events[-1]
    assert not count.waits
    assert not count.blocking
    assert count.copies.total() == len(listeners), "one copy per admission"
    unexpected = set(count.launches) - EXPECTED_OPERATORS
    assert not unexpected


@pytest.fixture(scope="module")
def plain(networks: Networks, mode: FakeTensorMode) -> OperatorCount:
    """The operators of the plain job."""
    count, listeners = paint(networks, mode, JOB)
    check(count, listeners)
    return count


def test_unexpected_operator_is_reported(mode: FakeTensorMode) -> None:
    count = OperatorCount("cuda")
    with fake_cuda(mode), count.watching():
        torch.empty(8, device="cuda:0").sort()
    with pytest.raises(AssertionError, match="sort"):
        check(count, [])


def test_self_attention_takes_one_product_for_query_key_and_value(
    mode: FakeTensorMode, plain: OperatorCount
) -> None:
    """Low-rank variants, such as the plain one, take three in each of the 70 layers."""
    count, listeners = paint(cuda_networks(mode, WorkingCopy()), mode, JOB)
    check(count, listeners)
    assert plain.launches["mm"] - count.launches["mm"] == 2 * 70 * JOB.steps


def test_no_scheduler_waits_for_the_device(
    networks: Networks, mode: FakeTensorMode, batches: list[list[str]]
) -> None:
    """One request of each, with guidance and without, in one batch."""
    jobs = [
        replace(
            JOB, request_id=f"{name} {scale}", scheduler=name, guidance_scale=scale, decoder="tiny"
        )
        for name in SCHEDULER_NAMES
        for scale in (1.0, 2.0)
    ]
    count, listeners = paint(networks, mode, *jobs)
    check(count, listeners)
    assert batches == [[job.request_id for job in jobs]] * JOB.steps


CASES: dict[str, dict[str, Any]] = {
    "control window": {"control_guidance_end": 0.4},
    "no control": {"controlnet_strength": 0.0},
    "guidance window": {"guidance_end": 0.5},
    "img2img": {
        "image": bytes(3 * SIDE * SIDE), "strength": 1.0, "steps": 2, "scheduler": "euler_a"
    },
    "previews, two pictures": {"previews": True, "num_images": 2},
    "deepcache": {"enable_deepcache": True, "steps": 3},
    # Texts of another length have steps of their own: one with control, one without.
    "long prompt, tiny decoder": {
        "prompt": "rivers and hills, " * 60, "decoder": "tiny", "control_guidance_end": 0.5
    },
}  # fmt: skip


def test_requests_never_wait_for_the_device(
    networks: Networks, mode: FakeTensorMode, batches: list[list[str]]
) -> None:
    jobs = [replace(JOB, request_id=name, **changes) for name, changes in CASES.items()]
    count, listeners = paint(networks, mode, *jobs)
    check(count, listeners)
    for changes, listener in zip(CASES.values(), listeners, strict=True):
        steps = [event for event in listener.events if isinstance(event, Step)]
        assert steps
        assert all(step.preview for step in steps) == bool(changes.get("previews"))
    *together, alone = CASES
    assert list(dict.fromkeys(batches[0])) == together
    assert batches.count(["deepcache"]) == 2, "a step on deep features and a whole one"
    assert batches.count([alone]) == 2


@pytest.mark.parametrize("lora_mode", ["merged", "low_rank"])
def test_loras_act_without_waiting(
    networks: Networks,
    mode: FakeTensorMode,
    plain: OperatorCount,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lora_mode: str,
) -> None:
    variant, controlnet = networks
    copy = WorkingCopy() if lora_mode == "merged" else None
    loras = LoraManager(variant.unet, variant.text_encoders, copy)
    networks = dataclasses.replace(variant, loras=loras), controlnet
    for seed, name in enumerate(("first", "second")):
        file = tmp_path / f"{name}.safetensors"
        write_lora(file, networks[0].unet, rank=2, seed=seed)
        # One layer of each block, because fake tensors are slow to make.
        part = {key: each for key, each in load_file(file).items() if LORA_LAYER in key}
        save_file(part, file)
        # Fake tensors cannot be read from a file.
        monkeypatch.setattr(
            "runners.networks.lora.adapter_file.load_file", lambda _, read=part: read
        )
        with fake_cuda(mode):
            loras.add(name, file, WeightUploader(CUDA, FakeCopyStream()))
    weights = (LoraWeight("first", 0.8), LoraWeight("second", 0.4))
    count, listeners = paint(networks, mode, replace(JOB, loras=weights))
    check(count, listeners)
    more = count.launches - plain.launches
    if lora_mode == "merged":
        # Once per shape of weights; a step has no other launches than without LoRAs.
        assert 0 < more["baddbmm_"] < 10
        assert not more["addmm_"]
        assert copy is not None
        with fake_cuda(mode):
            copy.release()
    else:
        assert more["addmm_"] > 10


def test_decode_in_tiles(networks: Networks, mode: FakeTensorMode, plain: OperatorCount) -> None:
    job = replace(JOB, width=SIDE + 256, depth=bytes(SIDE * (SIDE + 256)))
    tiled, listeners = paint(networks, mode, job, free_bytes=2**28)
    check(tiled, listeners)
    assert tiled.launches["convolution"] > plain.launches["convolution"]


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
    check(count, listeners)
    assert rows[0] == 3
    assert max(rows[1:]) <= 3
