"""Seams and shifts of decoding in tiles, on generated landscapes of the demo set.

python -m benchmarks.tiling [--pictures N]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image

from benchmarks.support.report import finish
from runners.diffusion import vae as tiling
from runners.diffusion.denoise import predict_noise
from runners.diffusion.dummy_inputs import dummy_samples
from testing.workbench import DEVICE, demo_networks, make_job

SIZE = (320, 448)
"""Height and width in pixels; both exceed a tile of the demo's autoencoder."""
BAR = 1.25
"""Largest change across an overlap in tiles, over the change there when decoded at once."""
_MODEL = "lightning"

Decode = Callable[[Any, torch.Tensor], torch.Tensor]


@torch.inference_mode()
def painted_latents(seed: int = 0) -> torch.Tensor:
    """Return final latents of a landscape, scaled for the decoder, (1, 4, h/8, w/8)."""
    networks = demo_networks(_MODEL)
    rough = np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)
    depth = np.asarray(Image.fromarray(rough).resize(SIZE[::-1], Image.Resampling.BICUBIC))
    job = make_job(depth, model=_MODEL, steps=4, guidance_scale=1.0)
    (sample,) = dummy_samples(job, *networks, DEVICE, 1)
    while not sample.done:
        sample.advance(predict_noise([sample], DEVICE)[0])
    scaled: torch.Tensor = sample.latents / networks[0].vae.config.scaling_factor
    return scaled


@torch.inference_mode()
def whole(autoencoder: Any, latents: torch.Tensor) -> torch.Tensor:
    """Decode at once: (1, 3, h, w) in [-1, 1]."""
    picture: torch.Tensor = autoencoder.decode(latents, return_dict=False)[0]
    return picture


@torch.inference_mode()
def in_tiles(autoencoder: Any, latents: torch.Tensor) -> torch.Tensor:
    """Decode as the engine does without free memory: (1, 3, h, w) in [-1, 1]."""
    with mock.patch.object(tiling, "free_bytes", return_value=0):
        return tiling.decode_within_memory(autoencoder, latents)


@torch.inference_mode()
def side_by_side(autoencoder: Any, latents: torch.Tensor) -> torch.Tensor:
    """Decode tiles without overlap, which shows the seams that overlaps avoid."""
    side = autoencoder.tile_latent_min_size
    rows = [
        torch.cat([whole(autoencoder, part) for part in torch.split(row, side, dim=3)], dim=3)
        for row in torch.split(latents, side, dim=2)
    ]
    return torch.cat(rows, dim=2)


def changes(picture: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute brightness change between neighbouring columns, of 255: (w - 1,)."""
    return (picture[..., 1:] - picture[..., :-1]).abs().mean((0, 1, 2)) * 127.5


def main() -> None:
    """Generate, decode each way, and finish with the change across overlaps over the whole's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tiling", description=__doc__)
    parser.add_argument("--pictures", type=int, default=8)
    autoencoder = demo_networks(_MODEL)[0].vae
    ways: dict[str, Decode] = {
        "whole": whole, "in tiles": in_tiles, "without overlap": side_by_side,
    }  # fmt: skip
    edge = 8 * autoencoder.tile_latent_min_size
    # In tile sides: the middle of the first overlap of a quarter, and the edge of a bare tile.
    places = {"whole": 0.875, "in tiles": 0.875, "without overlap": 1.0}
    found: dict[str, list[float]] = {way: [] for way in ways}
    shifts = []
    for seed in range(parser.parse_args().pictures):
        latents = painted_latents(seed)
        pictures = {way: decode(autoencoder, latents) for way, decode in ways.items()}
        for way, picture in pictures.items():
            column = int(places[way] * edge)
            found[way].append(float(changes(picture)[column - 1]))
        shifts.append(float((pictures["in tiles"] - pictures["whole"]).abs().mean() * 127.5))
    means = {way: round(float(np.mean(values)), 2) for way, values in found.items()}
    ratio = round(means["in tiles"] / means["whole"], 3)
    finish(ratio, BAR, ratio <= BAR, change=means, shift=round(float(np.mean(shifts)), 2))


if __name__ == "__main__":
    main()
