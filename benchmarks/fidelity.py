"""Do the pictures follow the depth, and show the era that the prompt asks for?

    python -m benchmarks.fidelity [--maps N] [--sheet PATH] [--cfg SCALE]

Paints held-out depth maps, half of them of kinds that the training generator cannot make, through
the engine with the catalog's defaults, two eras each; and once more without control. A judge that
has seen only true renderings reads height and era out of every picture.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.heldout import COUNT, HeldOut, heldout
from benchmarks.judge import Judge, Picture
from benchmarks.report import finish
from benchmarks.workbench import Listener, demo_catalog, make_engine, make_job
from models.demo.rendering import render
from runners.messages import Done, PaintJob

ADHERENCE_BAR = 0.80
UNCONTROLLED_BAR = 0.25
ERA_BAR = 0.95
CACHE = Path("build/judge")
_ERAS_PER_MAP = 2


@dataclass(frozen=True, slots=True)
class Reading:
    """One picture as the judge reads it."""

    kind: str
    asked: str
    seen: str
    adherence: float
    sharpness: float


def paint(jobs: Sequence[PaintJob]) -> list[Picture]:
    """The first picture of every job, through one engine."""
    engine = make_engine(max_rows=2)
    listeners = [Listener() for _ in jobs]
    pictures = []
    for job, listener in zip(jobs, listeners, strict=True):
        engine.submit(job, listener)
        while engine.tick():
            pass
    engine.close()
    for listener in listeners:
        last = listener.events[-1]
        if not isinstance(last, Done):
            raise RuntimeError(f"no picture: {last}")
        pictures.append(np.asarray(Image.open(io.BytesIO(last.images[0]))))
    return pictures


def plan(maps: Sequence[HeldOut], strength: float, eras_per_map: int) -> list[tuple[HeldOut, str]]:
    """Which era each map is painted in: all eras in turn, so that each has as many maps."""
    eras = list(demo_catalog().eras)
    return [
        (held, eras[(index + turn * (1 + index // len(eras) % (len(eras) - 1))) % len(eras)])
        for turn in range(eras_per_map if strength else 1)
        for index, held in enumerate(maps)
    ]


def read(
    judge: Judge, maps: Sequence[HeldOut], strength: float, cfg: float
) -> tuple[list[Reading], list[Picture]]:
    """Paint the maps with a ControlNet strength and read the pictures."""
    pairs = plan(maps, strength, _ERAS_PER_MAP)
    jobs = [
        make_job(
            held.depth,
            request_id=str(number),
            prompt=demo_catalog().eras[era].prompt,
            seed=number,
            controlnet_strength=strength,
            guidance_scale=cfg,
        )
        for number, (held, era) in enumerate(pairs)
    ]
    pictures = paint(jobs)
    return judged(judge, pairs, pictures), pictures


def ceiling(judge: Judge, maps: Sequence[HeldOut]) -> list[Reading]:
    """What the judge reads in true renderings of the same maps and eras: the best there is."""
    pairs = plan(maps, 1.0, _ERAS_PER_MAP)
    renderings = [render(held.height, era, number) for number, (held, era) in enumerate(pairs)]
    return judged(judge, pairs, renderings)


def judged(
    judge: Judge, pairs: Sequence[tuple[HeldOut, str]], pictures: Sequence[Picture]
) -> list[Reading]:
    """Each picture of a map in an era, as the judge reads it."""
    return [
        Reading(
            kind=held.kind,
            asked=era,
            seen=judge.era(picture)[0],
            adherence=judge.adherence(picture, held.depth),
            sharpness=judge.sharpness(picture),
        )
        for (held, era), picture in zip(pairs, pictures, strict=True)
    ]


def _adherence(readings: Sequence[Reading]) -> float:
    return float(np.mean([reading.adherence for reading in readings]))


def _recognised(readings: Sequence[Reading]) -> float:
    return float(np.mean([reading.seen == reading.asked for reading in readings]))


def sheet(maps: Sequence[HeldOut], pictures: Sequence[Picture], path: Path) -> None:
    """Every depth map above its first picture, sixteen to a row, at half size."""
    tiles = [
        np.concatenate([np.repeat(held.depth[::2, ::2, None], 3, axis=2), picture[::2, ::2]])
        for held, picture in zip(maps, pictures, strict=False)
    ]
    blank = np.zeros_like(tiles[0])
    tiles += [blank] * (-len(tiles) % 16)
    rows = [np.concatenate(tiles[i : i + 16], axis=1) for i in range(0, len(tiles), 16)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(path)


def main() -> None:
    """Paint, read, print a table by kind and by era, and finish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--maps", type=int, default=COUNT)
    parser.add_argument("--sheet", type=Path, default=Path("build/fidelity.png"))
    parser.add_argument("--cfg", type=float, default=demo_catalog().models["base"].cfg)
    options = parser.parse_args()
    judge = Judge.load_or_train(CACHE)
    maps = heldout(count=options.maps)
    controlled, pictures = read(judge, maps, strength=0.8, cfg=options.cfg)
    free, _ = read(judge, maps, strength=0.0, cfg=options.cfg)
    best = ceiling(judge, maps)
    sheet(maps, pictures, options.sheet)
    for label, group in (("kind", "kind"), ("era", "asked")):
        for name in sorted({getattr(reading, group) for reading in controlled}):
            own = [reading for reading in controlled if getattr(reading, group) == name]
            print(
                f"{label} {name:<16} adherence {_adherence(own):.3f}  "
                f"era {_recognised(own):.2f}  n {len(own)}"
            )
    adherence, uncontrolled = _adherence(controlled), _adherence(free)
    era = _recognised(controlled)
    finish(
        {"adherence": round(adherence, 4), "uncontrolled": round(uncontrolled, 4), "era": era},
        {"adherence": ADHERENCE_BAR, "uncontrolled": UNCONTROLLED_BAR, "era": ERA_BAR},
        adherence >= ADHERENCE_BAR and uncontrolled <= UNCONTROLLED_BAR and era >= ERA_BAR,
        maps=len(maps),
        pictures=len(controlled) + len(free),
        lowest_adherence=round(min(reading.adherence for reading in controlled), 3),
        era_without_control=_recognised(free),
        true_renderings={"adherence": round(_adherence(best), 4), "era": _recognised(best)},
        sharpness=round(float(np.mean([reading.sharpness for reading in controlled])), 3),
    )


if __name__ == "__main__":
    main()
