"""Accuracy of the demo's depth estimator on rendered and generated images.

    python -m benchmarks.estimator [--maps N] [--sheet PATH]

Each held-out map has one era. The estimator reads its true rendering, and the image of every
variant with the era's LoRAs. Five of eight maps are of kinds that the training generator cannot
make. The estimator runs as in the service, at the image's size. The figure is Pearson's correlation
with the depth map, averaged over images.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.support.quality.gallery import Pairs, paint, plan, true_renderings
from benchmarks.support.report import finish
from common.protocol import LoraWeight
from models.demo.training.data.eras import ERAS
from runners.networks.depth_estimators import Estimator, load_estimator
from testing.heldout import COUNT, heldout
from testing.workbench import DEVICE, WEIGHTS, demo_catalog, make_job

TRUE = "true renderings"
TRUE_BAR = 0.9
PAINTED_BAR = 0.88
ERA_BAR = 0.85
"""Mean over true and generated images of the era with the lowest mean."""

Picture = NDArray[np.uint8]


def estimator() -> Estimator:
    """Load the demo set's default estimator from the repository's files."""
    catalog = demo_catalog()
    spec = catalog.depth_estimators[str(catalog.default_depth_estimator)]
    return load_estimator(spec, WEIGHTS / "depth_estimator", DEVICE)


def painted(pairs: Pairs, model: str) -> list[Picture]:
    """Generate each map in its era with a variant's defaults and the era's LoRAs."""
    catalog = demo_catalog()
    spec = catalog.models[model]
    jobs = []
    for number, (held, era) in enumerate(pairs):
        loras = sorted(catalog.eras[era].loras.items())
        jobs.append(
            make_job(
                held.depth,
                request_id=str(number),
                model=model,
                prompt=catalog.eras[era].prompt,
                seed=number,
                steps=spec.steps,
                guidance_scale=spec.cfg,
                loras=tuple(LoraWeight(*each) for each in loras),
            )
        )
    return paint(jobs)


def correlations(
    reader: Estimator, pairs: Pairs, pictures: Sequence[Picture]
) -> tuple[list[float], list[Picture]]:
    """Estimate the depth of each image and correlate it with its map.

    Args:
        reader: the estimator.
        pairs: depth maps, each with its era.
        pictures: one image per pair, uint8 (h, w, 3).

    Returns:
        Pearson's correlation per image, and the estimates, uint8 (h, w).
    """
    found = [reader.estimate(picture) for picture in pictures]
    figures = [
        float(np.corrcoef(estimate.ravel(), held.depth.ravel())[0, 1])
        for (held, _), estimate in zip(pairs, found, strict=True)
    ]
    return figures, found


def main() -> None:
    """Generate, estimate, print tables, and finish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--maps", type=int, default=COUNT)
    parser.add_argument("--sheet", type=Path, default=Path("build/estimator.png"))
    options = parser.parse_args()
    pairs = plan(heldout(count=options.maps), 1)
    reader = estimator()
    sources = {TRUE: true_renderings(pairs)}
    sources |= {model: painted(pairs, model) for model in demo_catalog().models}
    figures: dict[str, list[float]] = {}
    by_era: dict[str, list[float]] = defaultdict(list)
    rows = []
    for name, pictures in sources.items():
        figures[name], found = correlations(reader, pairs, pictures)
        for (_, era), value in zip(pairs, figures[name], strict=True):
            by_era[era].append(value)
        rows.append(_row(pairs, pictures, found))
        print(f"{name:<16} {np.mean(figures[name]):.3f}  lowest {min(figures[name]):.3f}")
    for era in ERAS:
        if by_era[era]:
            print(f"{era:<16} {np.mean(by_era[era]):.3f}  n {len(by_era[era])}")
    options.sheet.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(options.sheet)
    true = float(np.mean(figures[TRUE]))
    paints = float(np.mean([value for name in demo_catalog().models for value in figures[name]]))
    worst = min(by_era, key=lambda era: np.mean(by_era[era]))
    lowest = float(np.mean(by_era[worst]))
    finish(
        {"true": round(true, 4), "painted": round(paints, 4), "lowest_era": round(lowest, 4)},
        {"true": TRUE_BAR, "painted": PAINTED_BAR, "lowest_era": ERA_BAR},
        true >= TRUE_BAR and paints >= PAINTED_BAR and lowest >= ERA_BAR,
        variants={name: round(float(np.mean(figures[name])), 4) for name in demo_catalog().models},
        eras={era: round(float(np.mean(values)), 4) for era, values in by_era.items()},
        maps=options.maps,
    )


def _row(pairs: Pairs, pictures: Sequence[Picture], found: Sequence[Picture]) -> Picture:
    """Return depth, image and estimate in columns, for the first twelve maps."""
    tiles = [
        np.concatenate([_grey(held.depth), picture, _grey(estimate)])[::2, ::2]
        for (held, _), picture, estimate in list(zip(pairs, pictures, found, strict=True))[:12]
    ]
    return np.concatenate(tiles, axis=1)


def _grey(depth: Picture) -> Picture:
    return np.repeat(depth[..., None], 3, axis=2)


if __name__ == "__main__":
    main()
