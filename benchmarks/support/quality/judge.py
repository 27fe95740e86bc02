"""Judge that reads height and era from an image, to measure adherence to depth map and prompt.

The judge is a small convolutional network trained only on true renderings of landscapes, plain and
in the LoRAs' looks, never on generated images. The demo set's training does not optimise its
figures.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, mse_loss, silu

from models.demo.training.data.eras import ERAS
from models.demo.training.data.fields import Field
from models.demo.training.data.looks import LOOKS, apply_look
from models.demo.training.data.rendering import render
from models.demo.training.data.terrain import make_terrain

Picture = NDArray[np.uint8]
SEED = 7_000_000
"""Base seed, distinct from the demo set's training seeds and the held-out maps' seeds."""
TERRAINS = 320
SIDE = 128
STEPS = 1000
BATCH = 16
RATE = 2e-3


class Block(nn.Module):
    """A residual pair of 3x3 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape (n, channels, h, w)."""
        result: Tensor = x + self.second(silu(self.first(silu(self.norm(x)))))
        return result


class Reader(nn.Module):
    """Network from images (n, 3, h, w) in [-1, 1] to heights (n, h/2, w/2), logits (n, eras)."""

    def __init__(self, widths: Sequence[int] = (16, 32, 48, 64, 64)) -> None:
        super().__init__()
        inputs = (3, *widths[:-1])
        self.down = nn.ModuleList(
            nn.Conv2d(a, b, 4, 2, 1) for a, b in zip(inputs, widths, strict=True)
        )
        self.encode = nn.ModuleList(Block(width) for width in widths)
        self.up = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(widths))
        self.decode = nn.ModuleList(Block(width) for width in widths[:-1])
        self.height = nn.Conv2d(widths[0], 1, 3, padding=1)
        self.era = nn.Linear(sum(widths), len(ERAS))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return heights and era logits; sides must be multiples of 32."""
        levels: list[Tensor] = []
        for down, encode in zip(self.down, self.encode, strict=True):
            x = encode(down(x))
            levels.append(x)
        logits = self.era(torch.cat([level.mean((2, 3)) for level in levels], 1))
        for number in reversed(range(len(self.up))):
            x = interpolate(self.up[number](x), scale_factor=2.0, mode="nearest")
            x = self.decode[number](x + levels[number])
        return self.height(x)[:, 0], logits


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return the Pearson correlation per sample of (n, h, w) and (n, h, w), shape (n,)."""
    a = a.flatten(1) - a.flatten(1).mean(1, keepdim=True)
    b = b.flatten(1) - b.flatten(1).mean(1, keepdim=True)
    result: Tensor = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)
    return result


def gradient_energy(picture: Picture) -> float:
    """Return the mean squared luminance difference between neighbours, of values in [0, 1]."""
    grey = picture.astype(np.float32).mean(-1) / 255
    return float((np.diff(grey, axis=0) ** 2).mean() + (np.diff(grey, axis=1) ** 2).mean())


def _to_tensor(pictures: Picture) -> Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def _disturbed(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Shift colours, add noise and blur some, so that the judge does not rely on exact tones."""

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    count = len(pictures)
    pictures = pictures * draw(0.8, 1.2, count, 3, 1, 1) + draw(-0.12, 0.12, count, 3, 1, 1)
    soft = interpolate(interpolate(pictures, scale_factor=0.5, mode="area"), scale_factor=2.0)
    mix = draw(0, 1, count, 1, 1, 1) * (draw(0, 1, count, 1, 1, 1) < 0.5)
    pictures = pictures + (soft - pictures) * mix
    return pictures + 0.06 * draw(0, 1, count, 1, 1, 1) * torch.randn(
        pictures.shape, generator=generator
    )


class Judge:
    """Adherence, era and sharpness of finished images."""

    def __init__(self, reader: Reader, energies: dict[str, float]) -> None:
        self._reader = reader.eval().requires_grad_(False)
        self._energies = energies

    @classmethod
    def load_or_train(cls, cache_dir: str | Path) -> Judge:
        """Load the judge cached for exactly this code, or train it in two minutes."""
        data = Path(__file__).parents[3] / "models" / "demo" / "training" / "data"
        sources = sorted((data / "eras").glob("*.py"))
        sources += [Path(__file__), *(data / name for name in ("terrain.py", "looks.py"))]
        stamp = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
        path = Path(cache_dir) / f"judge-{stamp}.safetensors"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            reader, energies = _train()
            state = {f"reader/{name}": value for name, value in reader.state_dict().items()}
            state |= {f"energy/{era}": torch.tensor(value) for era, value in energies.items()}
            partial = path.with_suffix(".partial")
            save_file(state, partial)
            partial.replace(path)
        state = load_file(path)
        reader = Reader()
        reader.load_state_dict(
            {name[7:]: value for name, value in state.items() if name.startswith("reader/")}
        )
        return cls(reader, {era: state[f"energy/{era}"].item() for era in ERAS})

    def _read(self, picture: Picture) -> tuple[Tensor, Tensor]:
        """Return the height (h, w) and era logits (eras,) of an image of any size."""
        pixels = _to_tensor(picture[None].copy())
        height, width = picture.shape[:2]
        margins = (0, -width % 32, 0, -height % 32)
        padded = nn.functional.pad(pixels, margins, mode="replicate")
        heights, logits = self._reader(padded)
        full = interpolate(heights[:, None], scale_factor=2.0, mode="bilinear")
        return full[0, 0, :height, :width], logits[0]

    def height(self, picture: Picture) -> NDArray[np.float32]:
        """Return the height in the image, about [0, 1], float32 (h, w)."""
        result: NDArray[np.float32] = self._read(picture)[0].numpy()
        return result

    def adherence(self, picture: Picture, depth: NDArray[np.uint8]) -> float:
        """Return the Pearson correlation between the height read from the image and the depth map.

        `picture` is uint8 (h, w, 3), `depth` uint8 of any size; the depth is resampled.
        """
        wanted = torch.from_numpy(depth.astype(np.float32))[None, None]
        wanted = interpolate(wanted, size=picture.shape[:2], mode="bilinear", antialias=True)
        return float(correlation(self._read(picture)[0][None], wanted[:, 0]).item())

    def era(self, picture: Picture) -> tuple[str, dict[str, float]]:
        """Return the most likely era, and the probability of each."""
        shares = self._read(picture)[1].softmax(0).tolist()
        chances = dict(zip(ERAS, shares, strict=True))
        return max(chances, key=lambda era: chances[era]), chances

    def sharpness(self, picture: Picture) -> float:
        """Return gradient energy relative to true renderings of the era read; 1 is equal."""
        return gradient_energy(picture) / self._energies[self.era(picture)[0]]


def _in_some_look(rng: np.random.Generator, picture: Picture, height: Field) -> Picture:
    """Return the image, a third of the time in a LoRA's look, to which the judge must be robust."""
    if rng.random() < 2 / 3:
        return picture
    return apply_look(str(rng.choice(list(LOOKS))), picture, height, rng.uniform(0, 1.5))


def _train() -> tuple[Reader, dict[str, float]]:
    """Train a reader on fresh renderings, and return it with each era's mean gradient energy."""
    started = time.monotonic()
    heights, pictures = [], []
    for number in range(TERRAINS):
        height = make_terrain(SEED + number, (SIDE, SIDE)).height
        heights.append(height)
        pictures.append(np.stack([render(height, era, SEED + 7 * number) for era in ERAS]))
    energies = {
        era: float(np.mean([gradient_energy(painted[i]) for painted in pictures]))
        for i, era in enumerate(ERAS)
    }
    targets = torch.from_numpy(np.stack(heights))
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        reader = Reader()
    optimiser = torch.optim.AdamW(reader.parameters(), RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, STEPS)
    rng = np.random.default_rng(SEED)
    generator = torch.Generator().manual_seed(SEED)
    for _ in range(STEPS):
        chosen, eras = rng.integers(TERRAINS, size=BATCH), rng.integers(len(ERAS), size=BATCH)
        shown = np.stack(
            [
                _in_some_look(rng, pictures[i][e], heights[i])
                for i, e in zip(chosen, eras, strict=True)
            ]
        )
        read, logits = reader(_disturbed(_to_tensor(shown), generator))
        wanted = interpolate(targets[chosen][:, None], scale_factor=0.5, mode="area")[:, 0]
        loss = (1 - correlation(read, wanted)).mean() + 4 * mse_loss(read, wanted)
        loss = loss + 0.3 * cross_entropy(logits, torch.from_numpy(eras))
        optimiser.zero_grad()
        torch.autograd.backward([loss])
        nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    print(f"judge trained in {time.monotonic() - started:.0f} s", flush=True)
    return reader, energies
