"""A small depth estimator: reads the height back out of a picture.

GLPN's network (Kim et al., 2022: a hierarchical transformer with a light decoder) as transformers
has it, so that it is loaded like any other. It gives distance, as GLPN's own weights do: far is
large.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate, mse_loss
from transformers import DPTImageProcessorPil, GLPNConfig, GLPNForDepthEstimation

from models.demo.looks import LOOKS, apply_look
from models.demo.painted import Painted
from models.demo.pools import Pool
from models.demo.training import Losses

FOLDER = "depth_estimator"
SIDE = 192
"""Pixels of the shorter side of the pictures that it sees."""

PAINTED_SHARE = 0.45
_SMALL_SIDE, _SMALL_BATCH, _LARGE_BATCH = 128, 12, 6
_LARGE_FROM = 0.7
_LOOK_SHARE = 0.4
SETTLING = 40
"""Batches after training from which the normalisation's figures are taken."""

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Examples:
    """Where pictures of known depth come from: true renderings and painted ones."""

    pool: Pool
    painted: Painted

    def draw(self, rng: np.random.Generator) -> tuple[Bytes, Bytes]:
        """A picture (h, w, 3) and its depth (h, w)."""
        if rng.random() < PAINTED_SHARE:
            number = int(rng.integers(len(self.painted.depths)))
            return self.painted.pictures[number], self.painted.depths[number]
        number = int(rng.integers(len(self.pool)))
        picture = self.pool.pictures[number, rng.integers(self.pool.pictures.shape[1])]
        depth = self.pool.depths[number]
        if rng.random() < _LOOK_SHARE:
            look = str(rng.choice(list(LOOKS)))
            height = depth.astype(np.float32) / 255
            picture = apply_look(look, picture, height, rng.uniform(0.2, 1.3))
        return picture, depth


def make_estimator() -> GLPNForDepthEstimation:
    """The untrained network; pictures (n, 3, h, w) in [-1, 1] to distance (n, h, w) in [0, 1]."""
    return GLPNForDepthEstimation(
        GLPNConfig(
            hidden_sizes=(32, 48, 80, 112),
            depths=(1, 2, 2, 1),
            num_attention_heads=(1, 2, 5, 7),
            mlp_ratios=(2, 2, 4, 4),
            decoder_hidden_size=16,
            drop_path_rate=0.0,
            max_depth=1,
        )
    )


def make_processor() -> DPTImageProcessorPil:
    """Pictures of any size as the network wants them."""
    return DPTImageProcessorPil(
        size={"height": SIDE, "width": SIDE},
        keep_aspect_ratio=True,
        ensure_multiple_of=32,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )


def estimator_losses(
    estimator: GLPNForDepthEstimation, examples: Examples, step: int, steps: int
) -> Losses:
    """How far the distance is from one minus the height: its course, its value, its slopes."""
    pictures, depths = _batch(examples, step, large=step >= _LARGE_FROM * steps)
    with torch.autocast("cpu", torch.bfloat16):
        found = estimator(pixel_values=pictures).predicted_depth
    found = found.float()
    wanted = interpolate(1 - depths[:, None], size=found.shape[1:], mode="area")[:, 0]
    course = (1 - _correlation(found, wanted)).mean()
    value = mse_loss(found, wanted)
    slopes = sum((found.diff(dim=axis) - wanted.diff(dim=axis)).abs().mean() for axis in (1, 2))
    return {"loss": course + 2 * value + 2 * slopes, "course": course, "mse": value}


@torch.no_grad()
def settle(estimator: GLPNForDepthEstimation, examples: Examples, batches: int) -> None:
    """Measure the normalisation's means and variances anew, for the weights as they are now."""
    norms = [each for each in estimator.modules() if isinstance(each, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    estimator.train()
    for step in range(batches):
        estimator(pixel_values=_batch(examples, 10_000_000 + step, large=True)[0])
    estimator.eval()


def save_estimator(estimator: GLPNForDepthEstimation, folder: Path) -> None:
    """Replace `folder` by the network in half precision and its processor's settings."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    copy.deepcopy(estimator).half().save_pretrained(partial)
    make_processor().save_pretrained(partial)
    # transformers picks the variant that is installed by the name without its suffix.
    path = partial / "preprocessor_config.json"
    settings = json.loads(path.read_text()) | {"image_processor_type": "DPTImageProcessor"}
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _batch(examples: Examples, step: int, large: bool) -> tuple[Tensor, Tensor]:
    """Pictures (n, 3, s, s) about [-1, 1], disturbed, and their depths (n, s, s) in [0, 1]."""
    rng = np.random.default_rng((31, step))
    side, count = (SIDE, _LARGE_BATCH) if large else (_SMALL_SIDE, _SMALL_BATCH)
    drawn = [_cropped(*examples.draw(rng), side, rng) for _ in range(count)]
    pictures, depths = (torch.stack(each) for each in zip(*drawn, strict=True))
    return _disturbed(pictures, torch.Generator().manual_seed(step)), depths


def _cropped(
    picture: Bytes, depth: Bytes, side: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """A square of random place and scale, or the whole, `side` pixels wide."""
    shorter = min(depth.shape)
    crop = shorter if rng.random() < 0.5 else int(rng.integers(min(side, shorter), shorter + 1))
    row, column = (int(rng.integers(length - crop + 1)) for length in depth.shape)
    both = np.concatenate([picture, depth[..., None]], axis=2)
    cut = both[row : row + crop, column : column + crop].astype(np.float32) / 255
    whole = torch.from_numpy(cut).permute(2, 0, 1)[None]
    resized = interpolate(whole, size=(side, side), mode="bilinear", antialias=True)[0]
    return resized[:3] * 2 - 1, resized[3]


def _disturbed(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Other exposures, tints, lenses and sensors."""

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    count = len(pictures)
    pictures = pictures * draw(0.7, 1.25, count, 1, 1, 1) * draw(0.85, 1.15, count, 3, 1, 1)
    pictures = pictures + draw(-0.15, 0.15, count, 3, 1, 1)
    soft = interpolate(interpolate(pictures, scale_factor=0.5, mode="area"), scale_factor=2.0)
    mix = draw(0, 1, count, 1, 1, 1) * (draw(0, 1, count, 1, 1, 1) < 0.6)
    pictures = pictures + (soft - pictures) * mix
    noise = torch.randn(pictures.shape, generator=generator)
    return pictures + draw(0, 0.08, count, 1, 1, 1) * noise


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's, per sample of (n, h, w) against (n, h, w): (n,)."""
    pairs: Sequence[Tensor] = [x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (a, b)]
    first, second = pairs
    result: Tensor = (first * second).sum(1) / (first.norm(dim=1) * second.norm(dim=1) + 1e-4)
    return result
