"""Held-out maps painted through the engine, and what the judge reads in the pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.support.judge import Judge, Picture
from common.protocol import GenerateJob
from models.demo.training.data.eras import ERAS
from models.demo.training.data.rendering import render
from testing.heldout import HeldOut
from testing.workbench import Listener, demo_catalog, drain, finished, make_engine, make_job

Pairs = Sequence[tuple[HeldOut, str]]


@dataclass(frozen=True, slots=True)
class Reading:
    """One picture as the judge reads it."""

    kind: str
    asked: str
    seen: str
    adherence: float
    sharpness: float


def plan(maps: Sequence[HeldOut], eras_per_map: int) -> list[tuple[HeldOut, str]]:
    """Which era each map is painted in: all eras in turn, so that each has as many maps."""
    eras = list(ERAS)
    return [
        (held, eras[(index + turn * (1 + index // len(eras) % (len(eras) - 1))) % len(eras)])
        for turn in range(eras_per_map)
        for index, held in enumerate(maps)
    ]


def paint(jobs: Sequence[GenerateJob]) -> list[Picture]:
    """The first picture of every job, through one engine, one after another."""
    engine = make_engine(max_batch_rows=2)
    listeners = [Listener() for _ in jobs]
    for job, listener in zip(jobs, listeners, strict=True):
        engine.submit(job, listener)
        drain(engine)
    ends = finished(engine, listeners)
    return [np.asarray(Image.open(io.BytesIO(done.images[0]))) for done in ends]


def paint_pairs(pairs: Pairs, model: str = "base", **changes: Any) -> list[Picture]:
    """Each map in its era, with the variant's defaults but for `changes`."""
    catalog = demo_catalog()
    spec = catalog.models[model]
    settings = {"steps": spec.steps, "guidance_scale": spec.cfg, **changes}
    return paint(
        [
            make_job(
                held.depth,
                request_id=str(number),
                model=model,
                prompt=catalog.eras[era].prompt,
                seed=number,
                **settings,
            )
            for number, (held, era) in enumerate(pairs)
        ]
    )


def true_renderings(pairs: Pairs) -> list[Picture]:
    """Each map in its era as the renderer of the training pictures paints it."""
    return [render(held.height, era, number) for number, (held, era) in enumerate(pairs)]


def read(judge: Judge, pairs: Pairs, pictures: Sequence[Picture]) -> list[Reading]:
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


def adherence(readings: Sequence[Reading]) -> float:
    """Mean correlation between the height that is read and the depth map."""
    return float(np.mean([reading.adherence for reading in readings]))


def recognised(readings: Sequence[Reading]) -> float:
    """Share of pictures in which the judge sees the era that was asked for."""
    return float(np.mean([reading.seen == reading.asked for reading in readings]))


def sharpness(readings: Sequence[Reading]) -> float:
    """Mean gradient energy relative to true renderings of the era."""
    return float(np.mean([reading.sharpness for reading in readings]))


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
