"""What DeepCache saves at SDXL's size, and what it costs the pictures of the demo set.

    python -m benchmarks.deepcache [--maps N]

Operations are counted on the meta device. Then every variant that the catalog names paints held-out
depth maps twice, without and with `enable_deepcache`, from equal seeds; a judge that has seen only
true renderings reads height and era out of both.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.flops import installation_job
from benchmarks.support.gallery import Pairs, adherence, paint_pairs, plan, read, recognised
from benchmarks.support.judge import Judge, Picture
from benchmarks.support.report import finish
from testing.flop_count import CountedEngine, sdxl
from testing.heldout import COUNT, heldout
from testing.workbench import demo_catalog

KEPT_BAR = 0.95
"""Share of depth and of era that the pictures keep."""
_CACHE = Path("build/judge")
_CASES = (("lightning", 6, 1.0), ("lightning", 6, 2.0), ("base", 20, 7.5))


def operations() -> dict[str, list[float]]:
    """TFLOP of a request without and with DeepCache at 1024 x 1024, and their ratio."""
    figures = {}
    for model, steps, guidance in _CASES:
        job = replace(installation_job(), model=model, steps=steps, guidance_scale=guidance)
        engine = CountedEngine(*sdxl(model, "small"))
        # The first request reads the prompt, which both kinds do once.
        engine.operations(replace(job, steps=1))
        whole = engine.operations(job) / 1e12
        cached = engine.operations(replace(job, enable_deepcache=True)) / 1e12
        name = f"{model}, {steps} steps, guidance {guidance}"
        figures[name] = [round(whole, 1), round(cached, 1), round(cached / whole, 3)]
        print(f"{name}: {whole:.1f} TFLOP, {cached:.1f} with DeepCache", flush=True)
    return figures


def difference(whole: Sequence[Picture], cached: Sequence[Picture]) -> float:
    """Mean absolute difference of the pictures, of 255."""
    pairs = zip(whole, cached, strict=True)
    return float(np.mean([np.abs(a.astype(int) - b.astype(int)).mean() for a, b in pairs]))


def quality(judge: Judge, pairs: Pairs, models: Iterable[str]) -> dict[str, dict[str, list[float]]]:
    """Depth and era without and with DeepCache by variant, and how far the pictures are apart."""
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
    """The smallest share of adherence or era that any variant keeps."""
    return min(
        own[reading][1] / own[reading][0]
        for own in figures.values()
        for reading in ("adherence", "era")
    )


def main() -> None:
    """Count, paint, read, and finish with the smallest share that is kept."""
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
