"""Pools of pre-rendered images on disk, so that training never waits for the renderer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.demo.training.data.degradation import degrade
from models.demo.training.data.eras import ERAS
from models.demo.training.data.fields import Size
from models.demo.training.data.rendering import render
from models.demo.training.data.terrain import make_terrain

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class PoolSpec:
    """Content of a pool: `terrains` landscapes of one size, each in every era."""

    name: str
    size: Size
    terrains: int
    seed: int
    degraded: bool = False


@dataclass(frozen=True)
class Pool:
    """Rendered landscapes: depths (n, h, w) and images (n, eras, h, w, 3), both uint8 on disk."""

    spec: PoolSpec
    depths: Bytes
    pictures: Bytes

    def __len__(self) -> int:
        return self.spec.terrains


def _render_landscape(spec: PoolSpec, number: int) -> tuple[Bytes, Bytes]:
    """Render landscape `number` of the pool: its depth map, and one image per era."""
    seed = spec.seed + number
    terrain = make_terrain(seed, spec.size)
    pictures = [render(terrain.height, era, 8 * seed + i) for i, era in enumerate(ERAS)]
    if spec.degraded:
        pictures = [degrade(picture, 8 * seed + i) for i, picture in enumerate(pictures)]
    return terrain.depth, np.stack(pictures)


def _render_landscapes(spec: PoolSpec, workers: int) -> Iterator[tuple[Bytes, Bytes]]:
    if workers < 2:
        yield from (_render_landscape(spec, number) for number in range(spec.terrains))
        return
    with ProcessPoolExecutor(workers) as executor:
        numbers = range(spec.terrains)
        yield from executor.map(_render_landscape, [spec] * spec.terrains, numbers, chunksize=16)


def open_pool(spec: PoolSpec, folder: Path, workers: int = 2) -> Pool:
    """Open the pool in `folder`; render it first if it is missing or its spec differs.

    Args:
        spec: Content of the pool.
        folder: Folder of the pool's files.
        workers: Number of rendering processes.
    """
    depths_path, pictures_path = folder / f"{spec.name}-depths.npy", folder / f"{spec.name}.npy"
    stamp = folder / f"{spec.name}.json"
    content = json.dumps(asdict(spec) | {"eras": list(ERAS)})
    if not stamp.exists() or stamp.read_text() != content:
        folder.mkdir(parents=True, exist_ok=True)
        stamp.unlink(missing_ok=True)
        shape = (spec.terrains, *spec.size)
        picture_shape = (spec.terrains, len(ERAS), *spec.size, 3)
        depths = np.lib.format.open_memmap(depths_path, "w+", np.uint8, shape)
        pictures = np.lib.format.open_memmap(pictures_path, "w+", np.uint8, picture_shape)
        for number, (depth, rendered) in enumerate(_render_landscapes(spec, workers)):
            depths[number], pictures[number] = depth, rendered
        depths.flush()
        pictures.flush()
        stamp.write_text(content)
    return Pool(spec, np.load(depths_path, "r"), np.load(pictures_path, "r"))
