"""Adherence of generated images to the depth map, and to the era in the prompt.

    python -m benchmarks.fidelity [--all] [--maps N] [--sheet PATH] [--cfg SCALE]

Generates held-out depth maps through the engine with the catalog's defaults, in two eras each, and
once more without control. Five of eight maps are of kinds that the training generator cannot make.
A judge trained only on true renderings reads height and era from every image. `--all` also measures
every variant at several step counts, the LoRAs by strength, and the tiny decoder.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.support.quality import decoder_error, lora_response
from benchmarks.support.quality.gallery import (
    Pairs,
    Reading,
    adherence,
    paint_pairs,
    plan,
    read,
    recognised,
    sharpness,
    sheet,
    true_renderings,
)
from benchmarks.support.quality.judge import Judge
from benchmarks.support.report import finish
from models.demo.training.data.looks import LOOKS
from testing.heldout import COUNT, HeldOut, heldout
from testing.workbench import demo_catalog

ADHERENCE_BAR = 0.80
UNCONTROLLED_BAR = 0.25
ERA_BAR = 0.95
STUDENT_BAR = 0.95
"""Least share of the base's adherence and era recognition that a few-step variant keeps."""
SHARPER_BAR = 1.2
"""Least sharpness of a few-step variant, over the base's in 6 steps."""
FEWER_ERRORS_BAR = 0.5
"""Largest error rate in the era of a few-step variant, over the base's in 6 steps."""
STUDENTS = ("lightning", "hyper")
STEPS = {"base": (20, 6), "lightning": (6, 4), "hyper": (6, 4)}
CACHE = Path("build/judge")
_ERAS_PER_MAP = 2
_LORA_MAPS = 12

Table = Mapping[tuple[str, int], Sequence[Reading]]


def variants(judge: Judge, pairs: Pairs, known: Table) -> Table:
    """Measure every variant at several step counts, and print a table.

    All variants share maps, eras and seeds.

    Args:
        judge: reads height and era from the images.
        pairs: depth maps, each with its era.
        known: readings by (variant, steps) that need no new images.
    """
    table = dict(known)
    print("variant    steps  adherence  era    sharpness")
    for model, counts in STEPS.items():
        for steps in counts:
            if (model, steps) not in table:
                pictures = paint_pairs(pairs, model, steps=steps)
                table[model, steps] = read(judge, pairs, pictures)
            readings = table[model, steps]
            print(
                f"{model:<10} {steps:5}  {adherence(readings):9.3f}  {recognised(readings):.3f}"
                f"  {sharpness(readings):.3f}",
                flush=True,
            )
    return table


def student_faults(table: Table) -> list[str]:
    """Name the bars that few-step variants miss at their defaults."""
    best, hasty = table["base", 20], table["base", 6]
    faults = []
    for name in STUDENTS:
        own = table[name, demo_catalog().models[name].steps]
        if adherence(own) < STUDENT_BAR * adherence(best):
            faults.append(f"{name}: adherence")
        if recognised(own) < STUDENT_BAR * recognised(best):
            faults.append(f"{name}: era recognition")
        if sharpness(own) < SHARPER_BAR * sharpness(hasty):
            faults.append(f"{name}: no sharper than base in 6 steps")
        if 1 - recognised(own) > FEWER_ERRORS_BAR * (1 - recognised(hasty)):
            faults.append(f"{name}: era no surer than base in 6 steps")
    return faults


def lora_faults(judge: Judge, maps: Sequence[HeldOut]) -> list[str]:
    """Print the LoRAs' response curves, and name those that miss their bars."""
    pairs = plan(maps[:_LORA_MAPS], 1)
    faults = []
    print("lora         on         " + "".join(f"{s:7.2f}" for s in lora_response.STRENGTHS))
    for look in LOOKS:
        for model in ("base", *STUDENTS):
            response = lora_response.measure(judge, pairs, look, model)
            for label, row in (("", response.responses), ("adherence", response.adherences)):
                figures = "".join(f"{value:7.2f}" for value in row)
                print(f"{look:<12} {label or model:<10} {figures}", flush=True)
            if not response.passed:
                faults.append(f"lora {look} on {model}")
    return faults


def decoder_faults(maps: Sequence[HeldOut]) -> list[str]:
    """Print the tiny decoder's error, and name the decoder if it exceeds its bar."""
    error = decoder_error.measure(plan(maps, 1), demo_catalog().default_model)
    print(
        f"tiny decoder: mean difference {error.mean:.4f} of 1, {error.psnr:.1f} dB, "
        f"{error.tiny_macs:.0f} multiply-adds per pixel against {error.full_macs:.0f}, "
        f"{error.speedup:.1f} times as fast"
    )
    return ["tiny decoder"] if error.mean > decoder_error.ERROR_BAR else []


def print_groups(readings: Sequence[Reading]) -> None:
    """Print adherence and era recognition by kind of map and by era."""
    for label, group in (("kind", "kind"), ("era", "asked")):
        for name in sorted({getattr(reading, group) for reading in readings}):
            own = [reading for reading in readings if getattr(reading, group) == name]
            print(
                f"{label} {name:<16} adherence {adherence(own):.3f}  "
                f"era {recognised(own):.2f}  n {len(own)}"
            )


def main() -> None:
    """Generate, read, print tables, and finish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--all", action="store_true", help="also measure variants, LoRAs and the tiny decoder"
    )
    parser.add_argument("--maps", type=int, default=COUNT)
    parser.add_argument("--sheet", type=Path, default=Path("build/fidelity.png"))
    parser.add_argument("--cfg", type=float, default=demo_catalog().models["base"].cfg)
    options = parser.parse_args()
    judge = Judge.load_or_train(CACHE)
    maps = heldout(count=options.maps)
    pairs = plan(maps, _ERAS_PER_MAP)
    pictures = paint_pairs(pairs, guidance_scale=options.cfg)
    controlled = read(judge, pairs, pictures)
    alone = plan(maps, 1)
    free = read(
        judge, alone, paint_pairs(alone, guidance_scale=options.cfg, controlnet_strength=0.0)
    )
    best = read(judge, pairs, true_renderings(pairs))
    sheet(maps, pictures, options.sheet)
    print_groups(controlled)
    figures: dict[str, Any] = {
        "adherence": round(adherence(controlled), 4),
        "uncontrolled": round(adherence(free), 4),
        "era": round(recognised(controlled), 4),
    }
    faults = [
        name
        for name, missed in (
            ("adherence", figures["adherence"] < ADHERENCE_BAR),
            ("uncontrolled", figures["uncontrolled"] > UNCONTROLLED_BAR),
            ("era", figures["era"] < ERA_BAR),
        )
        if missed
    ]
    if options.all:
        default = options.cfg == demo_catalog().models["base"].cfg
        known = {("base", 20): controlled} if default else {}
        faults += student_faults(variants(judge, pairs, known))
        faults += lora_faults(judge, maps)
        faults += decoder_faults(maps)
    finish(
        figures,
        {"adherence": ADHERENCE_BAR, "uncontrolled": UNCONTROLLED_BAR, "era": ERA_BAR},
        not faults,
        faults=faults,
        maps=len(maps),
        pictures=len(controlled) + len(free),
        lowest_adherence=round(min(reading.adherence for reading in controlled), 3),
        era_without_control=round(recognised(free), 4),
        true_renderings={"adherence": round(adherence(best), 4), "era": recognised(best)},
        sharpness=round(sharpness(controlled), 3),
    )


if __name__ == "__main__":
    main()
