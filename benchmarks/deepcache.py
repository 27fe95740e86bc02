"""Savings of DeepCache (arXiv:2312.00858) at SDXL's size, and its cost in the demo set's quality.

    python -m benchmarks.deepcache [--maps N]

Operations are counted on the meta device. Every variant of the demo catalog then renders held-out
depth maps twice from equal seeds, without and with `enable_deepcache`. A judge trained only on true
renderings reads height and era from both.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from benchmarks.flops import installation_job
from benchmarks.support.quality.gallery import Pairs, adherence, paint_pairs, plan, read, recognised
from benchmarks.support.quality.judge import Judge, Picture
from benchmarks.support.report import finish
from testing.flop_count import CountedEngine, sdxl
from testing.heldout import COUNT, heldout
from testing.workbench import demo_catalog

KEPT_BAR = 0.95
"""Least share of adherence and of era recognition that every variant keeps."""
_CACHE = Path("build/judge")
_CASES = (("lightning", 6, 1.0), ("lightning", 6, 2.0), ("base", 20, 7.5))


def operations() -> dict[str, list[float]]:
    """Return TFLOP without and with DeepCache at 1024 x 1024, and their ratio, by request."""
    figures = {}
    for model, steps, guidance in _CASES:
        job = replace(installation_job(loras=()), model=model, steps=steps, guidance_scale=guidance)
        engine = CountedEngine(*sdxl(model, "small"))
        # Encode the prompt first: both kinds do it once, so it must not count.
        engine.operations(replace(job, steps=1))
        whole = engine.operations(job) / 1e12
        cached = engine.operations(replace(job, enable_deepcache=True)) / 1e12
        name = f"{model}, {steps} steps, guidance {guidance}"
        figures[name] = [round(whole, 1), round(cached, 1), round(cached / whole, 3)]
        print(f"{name}: {whole:.1f} TFLOP, {cached:.1f} with DeepCache", flush=True)
    return figures


def difference(whole: Sequence[Picture], cached: Sequence[Picture]) -> float:
    """Return the mean absolute difference of uint8 images, in steps of 1/255."""
    pairs = zip(whole, cached, strict=True)
    return float(np.mean([np.abs(a.astype(int) - b.astype(int)).mean() for a, b in pairs]))


def quality(judge: Judge, pairs: Pairs, models: Iterable[str]) -> dict[str, dict[str, list[float]]]:
    """Measure adherence and era recognition without and with DeepCache, and the images' difference.

    Args:
        judge: reads height and era from the images.
        pairs: depth maps, each with its era.
        models: names of the variants.

    Returns:
        By variant and figure: the values without and with DeepCache; one value for the difference.
    """
    figures = {}
    for name in models:
        whole, cached = (
            paint_pairs(pairs, name, enable_deepcache=enabled) for enabled in (False, True)
        )
        readings = [read(judge, pairs, pictures) for pictures in (whole, cached)]
        figures[name] = {
            "adherence": [round(adherence(each), 4) for each in readings],
            "era": [round(recognised(each), 4) for each in readings],
            "difference": [round(difference(whole, cached), 2)],
        }
        print(f"{name}: {figures[name]}", flush=True)
    return figures


def kept(figures: dict[str, dict[str, list[float]]]) -> float:
    """Return the smallest share of adherence or era recognition that any variant keeps."""
    return min(
        own[reading][1] / own[reading][0]
        for own in figures.values()
        for reading in ("adherence", "era")
    )


def main() -> None:
    """Count, generate, read, and finish with the smallest share kept."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--maps", type=int, default=COUNT)
    options = parser.parse_args()
    counted = operations()
    pairs = plan(heldout(count=options.maps), 2)
    figures = quality(Judge.load_or_train(_CACHE), pairs, demo_catalog().models)
    least = round(kept(figures), 4)
    finish(least, KEPT_BAR, least >= KEPT_BAR, tflop=counted, pictures=figures)


if __name__ == "__main__":
    main()
