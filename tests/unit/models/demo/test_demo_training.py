"""The demo set's training in miniature: it runs to the end, and resuming changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from models.demo.training.checkpoints import Ema, load_state, save_state
from models.demo.training.data.eras import ERAS
from models.demo.training.loop import Schedule, train
from models.demo.training.networks.autoencoder import to_tensor
from models.demo.training.plan import MINIATURE
from models.demo.training.pools import PoolSpec, open_pool
from models.demo.training.train import run

pytestmark = pytest.mark.slow

PARTS = {
    "unet", "controlnet", "vae", "lightning", "hyper", "tiny_decoder", "loras", "depth_estimator",
}  # fmt: skip


def test_a_resumed_run_gives_the_same_files(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(MINIATURE, whole, tmp_path / "a")
    # The same data, so that only the training itself is compared.
    broken.mkdir()
    for name in ("pools", "latents", "painted", "autoencoder.safetensors"):
        (whole / name).rename(broken / name)
    run(MINIATURE, broken, tmp_path / "b", stop_after=2)
    run(MINIATURE, broken, tmp_path / "b")
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.safetensors")]
    assert {path.parts[0] for path in files} >= PARTS
    for name in files:
        first, second = load_file(tmp_path / "a" / name), load_file(tmp_path / "b" / name)
        assert all(torch.equal(first[key], second[key]) for key in first), name
    assert not [*tmp_path.rglob("*.bin"), *tmp_path.rglob("*.pt"), *tmp_path.rglob("*.partial")]


def test_a_stage_learns_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    schedule = Schedule(steps=40, learning_rate=0.2, warmup=5, save_every=7, report_every=40)

    def trained(name: str, *stops: int | None) -> tuple[nn.Module, Ema]:
        torch.manual_seed(0)
        line = nn.Linear(2, 1)

        def losses_at(step: int) -> dict[str, torch.Tensor]:
            generator = torch.Generator().manual_seed(step)
            inputs = torch.randn(16, 2, generator=generator)
            return {"mse": (line(inputs)[:, 0] - inputs @ torch.tensor([2.0, -1.0])).pow(2).mean()}

        for stop in stops:
            ema = train("line", line, losses_at, schedule, tmp_path / name, stop)
        return line, ema

    line, ema = trained("once", None)
    resumed, resumed_ema = trained("twice", 17, None)
    assert torch.equal(line.weight, resumed.weight)
    assert all(torch.equal(ema.shadow[key], resumed_ema.shadow[key]) for key in ema.shadow)
    assert (line.weight - torch.tensor([[2.0, -1.0]])).abs().max() < 0.3


def test_state_returns_unchanged(tmp_path: Path) -> None:
    module = nn.Linear(3, 3)
    optimiser = torch.optim.AdamW(module.parameters())
    module(torch.ones(3)).sum().backward()
    optimiser.step()
    ema = Ema(module, 0.9)
    ema.update(module, 0)
    save_state(tmp_path / "state", module, ema, optimiser, 5)
    other = nn.Linear(3, 3)
    other_optimiser, other_ema = torch.optim.AdamW(other.parameters()), Ema(other, 0.9)
    assert load_state(tmp_path / "state", other, other_ema, other_optimiser) == 5
    assert torch.equal(module.weight, other.weight)
    assert torch.equal(ema.shadow["weight"], other_ema.shadow["weight"])
    moments = optimiser.state[module.weight]["exp_avg"]
    assert torch.equal(moments, other_optimiser.state[other.weight]["exp_avg"])


def test_learning_rate_rises_then_falls() -> None:
    schedule = Schedule(steps=100, learning_rate=1.0, warmup=10)
    rates = [schedule.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0.02 <= rates[-1] < 0.03


def test_a_pool_is_rendered_once_and_again_for_another_spec(tmp_path: Path) -> None:
    spec = PoolSpec("tiny", (32, 40), 2, seed=1)
    pool = open_pool(spec, tmp_path, workers=1)
    assert pool.pictures.shape == (2, len(ERAS), 32, 40, 3)
    written = (tmp_path / "tiny.npy").stat().st_mtime_ns
    open_pool(spec, tmp_path, workers=1)
    assert (tmp_path / "tiny.npy").stat().st_mtime_ns == written
    other = open_pool(replace(spec, seed=2), tmp_path, workers=1)
    assert (other.depths != pool.depths).any() or other.spec != pool.spec
    assert to_tensor(other.pictures[0]).shape == (len(ERAS), 3, 32, 40)
