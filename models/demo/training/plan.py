"""Training plans: the full one, one that continues a set, and a miniature one for tests."""

from __future__ import annotations

from dataclasses import dataclass, replace

from models.demo.training.data.fields import Size
from models.demo.training.data.painted import PaintedSpec
from models.demo.training.loop import Schedule
from models.demo.training.pools import PoolSpec
from models.demo.training.trajectories import TrajectorySpec


@dataclass(frozen=True)
class Plan:
    """Data pools, schedule of every stage, and batch sizes."""

    pools: tuple[PoolSpec, ...]
    autoencoder: Schedule
    autoencoder_batch: int
    sharpening: Schedule
    denoiser: Schedule
    small_batch: int
    large_batch: int
    small_size: Size
    large_from: float
    """Share of the denoiser's steps after which most batches have full-size images."""
    tiny: Schedule
    lora: Schedule
    lora_terrains: tuple[int, int]
    """Number of terrains of the first two pools that are rendered in each LoRA's look."""
    trajectories: tuple[TrajectorySpec, ...]
    student_pixels: int
    """Pixels of a student's batch, over all images."""
    lightning: Schedule
    hyper: Schedule
    painted: PaintedSpec
    estimator: Schedule


FULL = Plan(
    pools=(
        PoolSpec("small", (128, 128), 2200, seed=1_000_000),
        PoolSpec("square", (256, 256), 500, seed=2_000_000),
        PoolSpec("wide", (192, 320), 150, seed=3_000_000),
        PoolSpec("tall", (320, 192), 150, seed=4_000_000),
        PoolSpec("degraded", (128, 128), 150, seed=5_000_000, degraded=True),
    ),
    autoencoder=Schedule(steps=5800, learning_rate=2e-3),
    autoencoder_batch=4,
    sharpening=Schedule(steps=1200, learning_rate=4e-4),
    denoiser=Schedule(steps=4700, learning_rate=8e-4, warmup=200, ema=0.999),
    small_batch=16,
    large_batch=6,
    small_size=(128, 128),
    large_from=0.84,
    tiny=Schedule(steps=3500, learning_rate=3e-3),
    lora=Schedule(steps=500, learning_rate=1e-3, ema=0.99),
    lora_terrains=(240, 60),
    trajectories=(
        TrajectorySpec((128, 128), 1024, 32),
        TrajectorySpec((256, 256), 320, 8),
    ),
    student_pixels=16 * 128 * 128,
    lightning=Schedule(steps=1400, learning_rate=3e-4, ema=0.99),
    hyper=Schedule(steps=1600, learning_rate=3e-4, ema=0.99),
    painted=PaintedSpec((256, 256), batches=40, batch=6, seed=6_000_000),
    estimator=Schedule(steps=2400, learning_rate=2e-3, ema=0.998),
)

CONTINUED = replace(
    FULL,
    autoencoder=Schedule(steps=2000, learning_rate=1e-3),
    denoiser=Schedule(steps=3600, learning_rate=7e-4, warmup=200, ema=0.999),
    large_from=0.8,
)
"""Plan for a trained set that learns additional eras."""

MINIATURE = Plan(
    pools=(
        PoolSpec("small", (128, 128), 2, seed=1_000_000),
        PoolSpec("square", (128, 136), 1, seed=2_000_000),
        PoolSpec("degraded", (128, 128), 1, seed=5_000_000, degraded=True),
    ),
    autoencoder=Schedule(steps=2, learning_rate=1e-3, warmup=1, save_every=2, report_every=2),
    autoencoder_batch=2,
    sharpening=Schedule(steps=2, learning_rate=1e-3, warmup=1, save_every=2, report_every=2),
    denoiser=Schedule(steps=4, learning_rate=1e-3, warmup=2, save_every=2, report_every=2),
    small_batch=2,
    large_batch=1,
    small_size=(64, 64),
    large_from=0.5,
    tiny=Schedule(steps=2, learning_rate=1e-3, warmup=1, save_every=2, report_every=2),
    lora=Schedule(steps=2, learning_rate=1e-3, warmup=1, save_every=2, report_every=2),
    lora_terrains=(1, 1),
    trajectories=(TrajectorySpec((64, 64), 2, 2),),
    student_pixels=4 * 64 * 64,
    lightning=Schedule(steps=2, learning_rate=1e-3, warmup=1, save_every=2, report_every=2),
    hyper=Schedule(steps=2, learning_rate=1e-3, warmup=1, save_every=2, report_every=2),
    painted=PaintedSpec((128, 128), batches=1, batch=2, seed=6_000_000),
    estimator=Schedule(steps=2, learning_rate=1e-3, warmup=1, save_every=2, report_every=2),
)
