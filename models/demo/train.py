"""Train the demo set: `python -m models.demo.train`. Resumes where a killed run stopped."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from models.demo.additions import (
    make_trajectories,
    train_estimator,
    train_lora,
    train_student,
    train_tiny,
)
from models.demo.distillation import hyper_goal, lightning_goal
from models.demo.estimator import FOLDER, save_estimator
from models.demo.export import DemoSet, export
from models.demo.looks import LOOKS
from models.demo.plan import CONTINUED, FULL, MINIATURE, Plan
from models.demo.pools import open_pool
from models.demo.stages import (
    encode_pools,
    open_pools,
    sharpen,
    train_autoencoder,
    train_denoiser,
)
from models.demo.tokenizer import make_tokenizer


def run(
    plan: Plan, work: Path, out: Path, stop_after: int | None = None, start: Path | None = None
) -> None:
    """All stages, then the export.

    Args:
        stop_after: ends the run, as a kill would, after so many steps of the base; for tests.
        start: an exported set whose weights the base begins with.
    """
    started = time.monotonic()

    def tell(what: str) -> None:
        print(f"{what} after {time.monotonic() - started:.0f} s", flush=True)

    tokenizer = make_tokenizer()
    pools = open_pools(plan, work)
    tell("pictures ready")
    autoencoder = train_autoencoder(plan, pools, work, start=start)
    latents = encode_pools(pools, autoencoder, work)
    scaling_factor = float(autoencoder.config.scaling_factor)
    tell("latents ready")
    sharpen(plan, pools, latents, autoencoder, work, stop_after)
    base = train_denoiser(plan, latents, scaling_factor, tokenizer, work, stop_after, start)
    if stop_after is not None:
        return
    tell("base ready")
    loras = [train_lora(look, plan, pools, autoencoder, base, tokenizer, work) for look in LOOKS]
    tell("LoRAs ready")
    tiny = train_tiny(plan, pools, latents, autoencoder, work)
    tell("tiny decoder ready")
    trajectories = make_trajectories(plan, base, tokenizer, work)
    tell("trajectories ready")
    students = {
        name: train_student(name, goal, schedule, base, trajectories, work)
        for name, goal, schedule in (
            ("lightning", lightning_goal(), plan.lightning),
            ("hyper", hyper_goal(), plan.hyper),
        )
    }
    tell("students ready")
    export(DemoSet(autoencoder, base, tokenizer, tiny, students, loras), out)
    tell(f"{out} written")
    save_estimator(train_estimator(plan, pools[1], out, work), out / FOLDER)
    tell("depth estimator ready")


def run_estimator(plan: Plan, work: Path, out: Path) -> None:
    """The depth estimator alone, for the set in `out`, which stays as it is otherwise."""
    pool = open_pool(plan.pools[1], work / "pools")
    save_estimator(train_estimator(plan, pool, out, work), out / FOLDER)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "weights")
    parser.add_argument("--work", type=Path, default=Path("build/demo-train"))
    parser.add_argument("--miniature", action="store_true", help="a few steps, to test the path")
    parser.add_argument("--start", type=Path, help="continue the set in this folder")
    parser.add_argument(
        "--estimator", action="store_true", help="only the depth estimator, of the set in --out"
    )
    arguments = parser.parse_args()
    plan = MINIATURE if arguments.miniature else CONTINUED if arguments.start else FULL
    if arguments.estimator:
        run_estimator(plan, arguments.work, arguments.out)
        return
    run(plan, arguments.work, arguments.out, start=arguments.start)


if __name__ == "__main__":
    main()
