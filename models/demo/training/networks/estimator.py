"""Small depth estimator for images of the demo set.

The network is GLPN (Kim et al., arXiv:2201.07436), a hierarchical transformer with a light decoder,
in the implementation of transformers. Its output is distance, as in GLPN: far is large.
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

from models.demo.training.data.looks import LOOKS, apply_look
from models.demo.training.data.painted import Painted
from models.demo.training.loop import Losses
from models.demo.training.pools import Pool

FOLDER = "depth_estimator"
SIDE = 192
"""Shorter side of the network's input, in pixels."""

PAINTED_SHARE = 0.45
"""Share of training images that the demo set generated."""
_SMALL_SIDE, _SMALL_BATCH, _LARGE_BATCH = 128, 12, 6
_LARGE_FROM = 0.7
_LOOK_SHARE = 0.4
SETTLING = 40
"""Number of batches after training for the normalisation's statistics."""

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Examples:
    """Images with known depth: true renderings and generated images."""

    pool: Pool
    painted: Painted

    def draw(self, rng: np.random.Generator) -> tuple[Bytes, Bytes]:
        """Draw an image (h, w, 3) and its depth (h, w), both uint8."""
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
    """Return the untrained network: images (n, 3, h, w) in [-1, 1] to distance (n, h, w) [0, 1]."""
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
    """Return the processor from images of any size to the network's input."""
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
    """Return the losses of the distance against 1 - height: correlation, value and slopes.

    Args:
        estimator: Network in training.
        examples: Images with known depth.
        step: Number of the step, the seed of the batch.
        steps: Total number of steps.
    """
    pictures, depths = _draw_batch(examples, step, large=step >= _LARGE_FROM * steps)
    with torch.autocast("cpu", torch.bfloat16):
        predicted = estimator(pixel_values=pictures).predicted_depth
    predicted = predicted.float()
    target = interpolate(1 - depths[:, None], size=predicted.shape[1:], mode="area")[:, 0]
    course = (1 - _correlation(predicted, target)).mean()
    value = mse_loss(predicted, target)
    slopes = sum((predicted.diff(dim=axis) - target.diff(dim=axis)).abs().mean() for axis in (1, 2))
    return {"loss": course + 2 * value + 2 * slopes, "course": course, "mse": value}


@torch.no_grad()
def settle(estimator: GLPNForDepthEstimation, examples: Examples, batches: int) -> None:
    """Recompute the batch normalisation's means and variances for the current weights.

    Args:
        estimator: Trained network; modified in place.
        examples: Images for the statistics.
        batches: Number of batches.
    """
    norms = [each for each in estimator.modules() if isinstance(each, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    estimator.train()
    for step in range(batches):
        estimator(pixel_values=_draw_batch(examples, 10_000_000 + step, large=True)[0])
    estimator.eval()


def save_estimator(estimator: GLPNForDepthEstimation, folder: Path) -> None:
    """Replace `folder` with the network in float16 and its processor's settings."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    copy.deepcopy(estimator).half().save_pretrained(partial)
    make_processor().save_pretrained(partial)
    # transformers maps the name without the Pil suffix to the installed variant.
    path = partial / "preprocessor_config.json"
    settings = json.loads(path.read_text()) | {"image_processor_type": "DPTImageProcessor"}
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _draw_batch(examples: Examples, step: int, large: bool) -> tuple[Tensor, Tensor]:
    """Draw augmented images (n, 3, s, s), about [-1, 1], and depths (n, s, s) in [0, 1]."""
    rng = np.random.default_rng((31, step))
    side, count = (SIDE, _LARGE_BATCH) if large else (_SMALL_SIDE, _SMALL_BATCH)
    drawn = [_crop(*examples.draw(rng), side, rng) for _ in range(count)]
    pictures, depths = (torch.stack(each) for each in zip(*drawn, strict=True))
    return _augment(pictures, torch.Generator().manual_seed(step)), depths


def _crop(
    picture: Bytes, depth: Bytes, side: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Crop a random square and resize it to `side` pixels: (3, s, s) [-1, 1], (s, s) [0, 1]."""
    shorter = min(depth.shape)
    crop = shorter if rng.random() < 0.5 else int(rng.integers(min(side, shorter), shorter + 1))
    row, column = (int(rng.integers(length - crop + 1)) for length in depth.shape)
    both = np.concatenate([picture, depth[..., None]], axis=2)
    cut = both[row : row + crop, column : column + crop].astype(np.float32) / 255
    whole = torch.from_numpy(cut).permute(2, 0, 1)[None]
    resized = interpolate(whole, size=(side, side), mode="bilinear", antialias=True)[0]
    return resized[:3] * 2 - 1, resized[3]


def _augment(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Vary exposure, tint, sharpness and noise of images (n, 3, s, s)."""

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
    """Return the Pearson correlation per sample of two (n, h, w) tensors: (n,)."""
    pairs: Sequence[Tensor] = [x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (a, b)]
    first, second = pairs
    result: Tensor = (first * second).sum(1) / (first.norm(dim=1) * second.norm(dim=1) + 1e-4)
    return result
