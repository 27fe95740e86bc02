"""Training loop of all stages: warm-up, cosine learning rate, EMA, checkpoints, progress."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from models.demo.training.checkpoints import Ema, load_state, save_state

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Schedule:
    """Number of steps, learning rate, and intervals of a stage, in steps."""

    steps: int
    learning_rate: float
    warmup: int = 100
    ema: float = 0.999
    save_every: int = 250
    report_every: int = 50

    def rate(self, step: int) -> float:
        """Return the learning rate at `step`: linear warm-up, then a cosine down to 2 %."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2)


class Progress:
    """Printer of the losses' running means, the pace and the remaining time."""

    def __init__(self, stage: str, first: int, steps: int) -> None:
        self.stage, self.first, self.steps = stage, first, steps
        self.started = time.monotonic()
        self.means: dict[str, float] = {}

    def update(self, step: int, losses: Losses, report: bool) -> None:
        """Add the losses of a step to the running means.

        Args:
            step: Number of the step, from 0.
            losses: Losses of the step, by name.
            report: Whether to print a line.
        """
        for name, loss in losses.items():
            self.means[name] = self.means.get(name, loss.item()) * 0.98 + loss.item() * 0.02
        if not report:
            return
        pace = (time.monotonic() - self.started) / (step + 1 - self.first)
        left = pace * (self.steps - step - 1) / 60
        figures = " ".join(f"{name} {value:.4f}" for name, value in self.means.items())
        print(
            f"{self.stage} {step + 1}/{self.steps} {figures} {pace:.3f} s/step ETA {left:.1f} min",
            flush=True,
        )


def train(
    stage: str,
    module: nn.Module,
    losses_at: Callable[[int], Losses],
    schedule: Schedule,
    checkpoint: Path,
    stop_after: int | None = None,
) -> Ema:
    """Run or resume a stage and return its averaged weights.

    Args:
        stage: Name of the stage, for progress.
        module: Module to train, in place.
        losses_at: Function from a step's number to its losses; the first one is minimised. It
            must depend only on the step and the weights, so that a resumed run is equal to an
            uninterrupted one.
        schedule: Number of steps and learning rate.
        checkpoint: File to resume from and write to.
        stop_after: Number of steps after which to stop, to simulate a kill in tests.
    """
    parameters = module.parameters()
    optimiser = torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    ema = Ema(module, schedule.ema)
    first = load_state(checkpoint, module, ema, optimiser) if checkpoint.exists() else 0
    progress = Progress(stage, first, schedule.steps)
    last = schedule.steps if stop_after is None else min(stop_after, schedule.steps)
    for step in range(first, last):
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate(step)
        losses = losses_at(step)
        torch.autograd.backward([next(iter(losses.values()))])
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        ema.update(module, step)
        finished = step + 1
        progress.update(step, losses, finished % schedule.report_every == 0)
        if finished % schedule.save_every == 0 or finished == last:
            save_state(checkpoint, module, ema, optimiser, finished)
    return ema
