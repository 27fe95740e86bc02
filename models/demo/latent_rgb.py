"""The catalog's `latent_rgb`: latents to colours by one small matrix, for previews.

    python -m models.demo.latent_rgb

Fits, by least squares over true renderings, the map from the autoencoder's scaled latents and a
constant to the mean colour of the 8x8 pixels that each latent stands for. Prints the rows for the
catalog and how much of the variance they explain.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from models.demo.eras import ERAS
from models.demo.rendering import render
from models.demo.terrain import make_terrain

WEIGHTS = Path(__file__).parent / "weights"
_SEED = 6_000_000
_PER_ERA = 12
_SIZE = (256, 256)


@torch.inference_mode()
def fit(vae: AutoencoderKL) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.float64]], float]:
    """The matrix [5, 3] (four channels and a constant) and the share of variance explained."""
    latents, colours = [], []
    for number, era in enumerate(era for era in ERAS for _ in range(_PER_ERA)):
        terrain = make_terrain(_SEED + number, _SIZE)
        picture = torch.from_numpy(render(terrain.height, era, _SEED + number))
        unit = picture.permute(2, 0, 1)[None].float() / 255
        encoded = vae.encode(unit * 2 - 1).latent_dist.mode() * vae.config.scaling_factor
        latents.append(encoded[0].flatten(1).T.double().numpy())
        small = torch.nn.functional.avg_pool2d(unit, 8)
        colours.append(small[0].flatten(1).T.double().numpy())
    x, y = np.concatenate(latents), np.concatenate(colours)
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    matrix, *_ = np.linalg.lstsq(x, y)
    unexplained = ((x @ matrix - y) ** 2).sum() / ((y - y.mean(axis=0)) ** 2).sum()
    return matrix, float(1 - unexplained)


def main() -> None:
    """Fit on the demo set's autoencoder and print the rows."""
    matrix, explained = fit(AutoencoderKL.from_pretrained(WEIGHTS / "vae", dtype=torch.float32))
    rows = ", ".join(f"[{', '.join(f'{value:.4f}' for value in row)}]" for row in matrix)
    print(f"latent_rgb = [{rows}]")
    print(f"# {explained:.1%} of the variance explained")


if __name__ == "__main__":
    main()
