"""Quality and operations of a request's `speed`, and of all guidance masks.

    python -m benchmarks.speed_quality [--maps N] [--sweep N] [--output PATH]

First the settings that the catalog's variants have for each speed: images of held-out depth maps
with the era's LoRAs, guidance 2.0 and control for 80 % of the steps. A judge trained only on true
renderings reads height and era. `balanced` must keep 99 % of the exact images' adherence and era
recognition, `fast` 97 %. Then `--sweep N` judges all 64 guidance masks of six steps, without and
with DeepCache, on N maps of `lightning`. Operations are counted at SDXL's size at 1024 x 1024.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.flops import SPEED_BARS
from benchmarks.support.quality.gallery import Pairs, plan
from benchmarks.support.quality.judge import Judge
from benchmarks.support.quality.speed_sweep import Quality, Setting, judged, pareto, sweep_settings
from benchmarks.support.report import finish
from models.catalog import VariantSpec
from testing.heldout import COUNT, heldout
from testing.workbench import demo_catalog

KEPT_BARS = {"balanced": 0.99, "fast": 0.97}
"""Least share of adherence and era recognition that a speed keeps of the exact images'."""
_CACHE = Path("build/judge")
_SWEPT = "lightning"


def setting_of(spec: VariantSpec, speed: str) -> Setting:
    """Return the setting of a variant's speed."""
    own = spec.at_speed(speed)
    return Setting.of_window(
        own.steps, own.guidance_start, own.guidance_end, own.enable_deepcache, own.decoder
    )


def measure_speeds(judge: Judge, pairs: Pairs) -> dict[str, dict[str, Quality]]:
    """Judge each speed of each variant, and print a row for each."""
    figures: dict[str, dict[str, Quality]] = {}
    for model, spec in demo_catalog().models.items():
        figures[model] = {}
        for speed in ("exact", *spec.speeds):
            setting = setting_of(spec, speed)
            quality = judged(judge, pairs, model, setting)
            figures[model][speed] = quality
            kept = quality.kept(figures[model]["exact"])
            print(
                f"{model:<10} {speed:<9} {setting.label:<22} adherence {quality.adherence:.4f}  "
                f"era {quality.era:.4f}  kept {kept:.4f}  {quality.tflop:.1f} TFLOP",
                flush=True,
            )
    return figures


def sweep(judge: Judge, pairs: Pairs, output: Path | None) -> list[tuple[Setting, Quality]]:
    """Judge every mask, print each and the best ones, and write all to a JSON file."""
    found = []
    for setting in sweep_settings():
        quality = judged(judge, pairs, _SWEPT, setting)
        found.append((setting, quality))
        print(
            f"{setting.label:<18} {quality.tflop:6.1f} TFLOP  adherence {quality.adherence:.4f}  "
            f"era {quality.era:.4f}",
            flush=True,
        )
    print("none cheaper is better:")
    for setting, quality in pareto(found):
        print(
            f"{setting.label:<18} {quality.tflop:6.1f} TFLOP  adherence {quality.adherence:.4f}  "
            f"era {quality.era:.4f}"
        )
    if output is not None:
        rows = [
            {"setting": setting.label, "tflop": round(quality.tflop, 2),
             "adherence": round(quality.adherence, 4), "era": round(quality.era, 4)}
            for setting, quality in found
        ]  # fmt: skip
        output.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return found


def main() -> None:
    """Judge the speeds and, if asked to, all masks; finish with what the speeds keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--maps", type=int, default=COUNT, help="depth maps, each in three eras")
    parser.add_argument("--sweep", type=int, default=0, help="depth maps of the sweep")
    parser.add_argument("--output", type=Path, default=None, help="JSON file of the sweep")
    options = parser.parse_args()
    judge = Judge.load_or_train(_CACHE)
    swept = (
        sweep(judge, plan(heldout(count=options.sweep), 1), options.output) if options.sweep else []
    )
    figures = measure_speeds(judge, plan(heldout(count=options.maps), 3))
    kept = {
        f"{model} {speed}": round(quality.kept(own["exact"]), 4)
        for model, own in figures.items()
        for speed, quality in own.items()
        if speed != "exact"
    }
    tflop = {
        f"{model} {speed}": round(quality.tflop, 1)
        for model, own in figures.items()
        for speed, quality in own.items()
    }
    missed = [name for name, share in kept.items() if share < KEPT_BARS[name.split()[1]]]
    # The goals are for the six steps of the distilled variants.
    missed += [
        f"{name}: {count} TFLOP"
        for name, count in tflop.items()
        if not name.startswith("base") and count > SPEED_BARS[name.split()[1]]
    ]
    bars: dict[str, Any] = {"kept": KEPT_BARS, "tflop": SPEED_BARS}
    finish({"kept": kept, "tflop": tflop}, bars, not missed, missed=missed, swept=len(swept))


if __name__ == "__main__":
    main()
