"""Training of the demo set: `python -m models.demo.training.train`.

A run resumes after a kill.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from models.demo.training.additions import (
    make_trajectories,
    train_estimator,
    train_lora,
    train_student,
    train_tiny,
)
from models.demo.training.data.looks import LOOKS
from models.demo.training.data.tokenizer import make_tokenizer
from models.demo.training.distillation import hyper_goal, lightning_goal
from models.demo.training.export import DemoSet, export
from models.demo.training.networks.estimator import FOLDER, save_estimator
from models.demo.training.plan import CONTINUED, FULL, MINIATURE, Plan
from models.demo.training.pools import open_pool
from models.demo.training.stages import (
    encode_pools,
    open_pools,
    sharpen,
    train_autoencoder,
    train_denoiser,
)


def run(
    plan: Plan, work: Path, out: Path, stop_after: int | None = None, start: Path | None = None
) -> None:
    """Run all stages and export the set.

    Args:
        plan: Training plan.
        work: Folder for checkpoints and data.
        out: Folder of the exported set.
        stop_after: Number of the base's steps after which to stop, to simulate a kill in tests.
        start: Folder of an exported set with the base's initial weights.
    """
    started = time.monotonic()

    def report(event: str) -> None:
        print(f"{event} after {time.monotonic() - started:.0f} s", flush=True)

    tokenizer = make_tokenizer()
    pools = open_pools(plan, work)
    report("images ready")
    autoencoder = train_autoencoder(plan, pools, work, start=start)
    latents = encode_pools(pools, autoencoder, work)
    scaling_factor = float(autoencoder.config.scaling_factor)
    report("latents ready")
    sharpen(plan, pools, latents, autoencoder, work, stop_after)
    base = train_denoiser(plan, latents, scaling_factor, tokenizer, work, stop_after, start)
    if stop_after is not None:
        return
    report("base ready")
    loras = [train_lora(look, plan, pools, autoencoder, base, tokenizer, work) for look in LOOKS]
    report("LoRAs ready")
    tiny = train_tiny(plan, pools, latents, autoencoder, work)
    report("tiny decoder ready")
    trajectories = make_trajectories(plan, base, tokenizer, work)
    report("trajectories ready")
    students = {
        name: train_student(name, goal, schedule, plan.student_pixels, base, trajectories, work)
        for name, goal, schedule in (
            ("lightning", lightning_goal(), plan.lightning),
            ("hyper", hyper_goal(), plan.hyper),
        )
    }
    report("students ready")
    export(DemoSet(autoencoder, base, tokenizer, tiny, students, loras), out)
    report(f"{out} written")
    save_estimator(train_estimator(plan, pools[1], out, work), out / FOLDER)
    report("depth estimator ready")


def run_estimator(plan: Plan, work: Path, out: Path) -> None:
    """Train only the depth estimator of the exported set in `out`.

    Args:
        plan: Training plan.
        work: Folder for checkpoints and data.
        out: Folder of the exported set; only its depth estimator is replaced.
    """
    pool = open_pool(plan.pools[1], work / "pools")
    save_estimator(train_estimator(plan, pool, out, work), out / FOLDER)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "weights")
    parser.add_argument("--work", type=Path, default=Path("build/demo-train"))
    parser.add_argument(
        "--miniature", action="store_true", help="run a few steps of every stage, as a test"
    )
    parser.add_argument("--start", type=Path, help="continue the set in this folder")
    parser.add_argument(
        "--estimator",
        action="store_true",
        help="train only the depth estimator of the set in --out",
    )
    arguments = parser.parse_args()
    plan = MINIATURE if arguments.miniature else CONTINUED if arguments.start else FULL
    if arguments.estimator:
        run_estimator(plan, arguments.work, arguments.out)
        return
    run(plan, arguments.work, arguments.out, start=arguments.start)


if __name__ == "__main__":
    main()
