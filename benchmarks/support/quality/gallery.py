"""Held-out maps generated through the engine, and the judge's readings of the images."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.support.quality.judge import Judge, Picture
from common.protocol import GenerateJob
from models.demo.training.data.eras import ERAS
from models.demo.training.data.rendering import render
from runners.engine.engine import EngineConfig
from testing.heldout import HeldOut
from testing.workbench import Listener, demo_catalog, drain, finished, make_engine, make_job

Pairs = Sequence[tuple[HeldOut, str]]


@dataclass(frozen=True, slots=True)
class Reading:
    """The judge's reading of one image, with the era that was asked for."""

    kind: str
    asked: str
    seen: str
    adherence: float
    sharpness: float


def plan(maps: Sequence[HeldOut], eras_per_map: int) -> list[tuple[HeldOut, str]]:
    """Pair each map with eras, cycling through all of them so that each gets as many maps."""
    eras = list(ERAS)
    return [
        (held, eras[(index + turn * (1 + index // len(eras) % (len(eras) - 1))) % len(eras)])
        for turn in range(eras_per_map)
        for index, held in enumerate(maps)
    ]


def paint(jobs: Sequence[GenerateJob]) -> list[Picture]:
    """Generate the first image of every job through one engine, one after another."""
    # A slow machine must not turn jobs away.
    config = EngineConfig(max_queue=len(jobs), max_queue_seconds=math.inf)
    engine = make_engine(config, max_batch_rows=2)
    listeners = [Listener() for _ in jobs]
    for job, listener in zip(jobs, listeners, strict=True):
        engine.submit(job, listener)
        drain(engine)
    ends = finished(engine, listeners)
    return [np.asarray(Image.open(io.BytesIO(done.images[0]))) for done in ends]


def paint_pairs(pairs: Pairs, model: str = "base", **changes: Any) -> list[Picture]:
    """Generate each map in its era with the variant's defaults, changed by `changes`."""
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
    """Render each map in its era with the renderer of the training images."""
    return [render(held.height, era, number) for number, (held, era) in enumerate(pairs)]


def read(judge: Judge, pairs: Pairs, pictures: Sequence[Picture]) -> list[Reading]:
    """Have the judge read each image.

    Args:
        judge: reads height and era.
        pairs: depth maps, each with its era.
        pictures: one image per pair, uint8 (h, w, 3).
    """
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
    """Return the mean correlation between the height read and the depth map."""
    return float(np.mean([reading.adherence for reading in readings]))


def recognised(readings: Sequence[Reading]) -> float:
    """Return the share of images in which the judge reads the requested era."""
    return float(np.mean([reading.seen == reading.asked for reading in readings]))


def sharpness(readings: Sequence[Reading]) -> float:
    """Return the mean gradient energy relative to true renderings of the era."""
    return float(np.mean([reading.sharpness for reading in readings]))


def sheet(maps: Sequence[HeldOut], pictures: Sequence[Picture], path: Path) -> None:
    """Save every depth map above its first image, sixteen to a row, at half size.

    Args:
        maps: the depth maps.
        pictures: images, uint8 (h, w, 3); the first one per map is shown.
        path: file of the sheet.
    """
    tiles = [
        np.concatenate([np.repeat(held.depth[::2, ::2, None], 3, axis=2), picture[::2, ::2]])
        for held, picture in zip(maps, pictures, strict=False)
    ]
    blank = np.zeros_like(tiles[0])
    tiles += [blank] * (-len(tiles) % 16)
    rows = [np.concatenate(tiles[i : i + 16], axis=1) for i in range(0, len(tiles), 16)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(path)
