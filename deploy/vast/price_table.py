"""Cost of a thousand images by GPU, as a Markdown table.

python -m deploy.vast.price_table [--price "RTX 4090=0.35" …] [--efficiency 0.5] [--utilisation 0.7]

The seconds of a request are its operations (deploy/vast/request_cost.py) divided by the GPU's
half-precision throughput and by `efficiency`, the assumed fraction of it. The default prices are
examples of vast.ai's market in mid-2026; pass current ones with --price.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.vast.request_cost import Workload

_BODY: dict[str, Any] = {"prompt": "x" * 100, "control_guidance_end": 0.8}
REQUESTS: Mapping[str, dict[str, Any]] = {
    "6 steps": {**_BODY, "cfg": 1.0},
    "6 steps, cfg 2": {**_BODY, "cfg": 2.0},
    "base": {**_BODY, "model": "base", "control_guidance_end": 1.0},
}
"""Requests of the columns: without guidance, the installation's, 20 steps with guidance."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """Throughput and price of a GPU.

    Attributes:
        tflops: dense half precision with float32 accumulation, TFLOP/s, from NVIDIA's data sheets.
        price: USD per hour; None where no example is known, which leaves the row out.
    """

    tflops: float
    price: float | None


GPUS: Mapping[str, Gpu] = {
    "RTX 3090": Gpu(71, 0.25),
    "RTX 4090": Gpu(165, 0.40),
    "RTX 5090": Gpu(210, 0.60),
    "L40S": Gpu(362, 0.80),
    "A100 80 GB": Gpu(312, 1.00),
    "H100": Gpu(989, 2.20),
    "H200": Gpu(989, None),
}


def known_gpu(name: str) -> Gpu | None:
    """Return the row for a driver's GPU name: "NVIDIA A100-SXM4-80GB" is "A100 80 GB"."""
    words = set(re.split(r"\W+", name))
    found = (gpu for label, gpu in GPUS.items() if _model(label) in words)
    return next(found, None)


def _model(label: str) -> str:
    """Return the GPU's model without maker, family and memory: 4090, L40S, A100."""
    return label.removeprefix("RTX ").split(" ")[0]


def table(gpus: Mapping[str, Gpu], efficiency: float, utilisation: float) -> list[str]:
    """Return the table's lines: seconds per image, and USD per thousand images.

    Args:
        gpus: rows, by name.
        efficiency: fraction of a GPU's throughput that is reached, in (0, 1].
        utilisation: fraction of the rented time with requests, in (0, 1].
    """
    workload = Workload.of_catalog("experimance")
    tflop = {name: workload.tflop(body) for name, body in REQUESTS.items()}
    heads = [f"{name}: s, USD" for name in REQUESTS]
    lines = [
        "| GPU | TFLOP/s | USD/h | " + " | ".join(heads) + " |",
        "|---" * (3 + len(heads)) + "|",
    ]
    for name, gpu in gpus.items():
        if gpu.price is None:
            continue
        cells = []
        for work in tflop.values():
            seconds = work / (gpu.tflops * efficiency)
            cost = 1000 * seconds / 3600 * gpu.price / utilisation
            cells.append(f"{seconds:.2f}, {cost:.2f}")
        lines.append(f"| {name} | {gpu.tflops:g} | {gpu.price:.2f} | " + " | ".join(cells) + " |")
    counted = ", ".join(f"{name} {work:.1f}" for name, work in tflop.items())
    return [*lines, "", f"TFLOP a picture at 1024 x 1024: {counted}."]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.vast.price_table", description=__doc__)
    parser.add_argument("--price", action="append", default=[], metavar="GPU=USD", type=_price)
    parser.add_argument("--efficiency", type=float, default=0.5)
    parser.add_argument("--utilisation", type=float, default=0.7)
    options = parser.parse_args(arguments)
    gpus = dict(GPUS)
    for name, price in options.price:
        gpus[name] = Gpu(gpus[name].tflops, price)
    print("\n".join(table(gpus, options.efficiency, options.utilisation)))
    return 0


def _price(text: str) -> tuple[str, float]:
    name, _, price = text.partition("=")
    if name not in GPUS:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(GPUS)}")
    try:
        return name, float(price)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not GPU=USD") from None


if __name__ == "__main__":
    raise SystemExit(main())
