"""Train the demo set: `python -m models.demo.train`. Resumes where a killed run stopped."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from models.demo.export import export
from models.demo.plan import FULL, MINIATURE, Plan
from models.demo.stages import (
    encode_pools,
    open_pools,
    sharpen,
    train_autoencoder,
    train_denoiser,
)
from models.demo.tokenizer import make_tokenizer


def run(plan: Plan, work: Path, out: Path, stop_after: int | None = None) -> None:
    """All stages, then the export. `stop_after` cuts the denoiser short but still exports it."""
    started = time.monotonic()
    tokenizer = make_tokenizer()
    pools = open_pools(plan, work)
    print(f"pictures ready after {time.monotonic() - started:.0f} s", flush=True)
    autoencoder = train_autoencoder(plan, pools, work)
    encoded = encode_pools(pools, autoencoder, work)
    scaling_factor = float(autoencoder.config.scaling_factor)
    print(f"latents ready after {time.monotonic() - started:.0f} s", flush=True)
    sharpen(plan, pools, encoded, autoencoder, work, stop_after)
    denoiser = train_denoiser(plan, encoded, scaling_factor, tokenizer, work, stop_after)
    export(autoencoder, denoiser, tokenizer, out)
    print(f"{out} written after {time.monotonic() - started:.0f} s", flush=True)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "weights")
    parser.add_argument("--work", type=Path, default=Path("build/demo-train"))
    parser.add_argument("--miniature", action="store_true", help="a few steps, to test the path")
    parser.add_argument("--export-now", action="store_true", help="export the last checkpoint")
    arguments = parser.parse_args()
    plan = MINIATURE if arguments.miniature else FULL
    run(plan, arguments.work, arguments.out, 0 if arguments.export_now else None)


if __name__ == "__main__":
    main()
