"""Decoding in tiles: only where it must be, and without seams."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.workbench import DEVICE, demo_networks, make_job
from runners import tiling
from runners.conditioning import Conditioner
from runners.denoise import predict_noise
from runners.sample import Sample

SIZE = (320, 448)


@pytest.fixture(scope="module")
def autoencoder() -> Any:
    return demo_networks("lightning")[0].vae


@pytest.fixture(scope="module")
def latents(autoencoder: Any) -> torch.Tensor:
    """Of a painted landscape, larger than a tile."""
    networks = demo_networks("lightning")
    rough = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    depth = np.asarray(Image.fromarray(rough).resize(SIZE[::-1], Image.Resampling.BICUBIC))
    job = make_job(depth, model="lightning", steps=4, guidance_scale=1.0)
    with torch.inference_mode():
        conditioning = Conditioner(DEVICE).condition(job, *networks)
        sample = Sample(job, 0, *networks, conditioning, DEVICE)
        while not sample.done:
            sample.advance(predict_noise([sample], DEVICE)[0])
        scaled: torch.Tensor = sample.latents / autoencoder.config.scaling_factor
        return scaled


@torch.inference_mode()
def whole(autoencoder: Any, latents: torch.Tensor) -> torch.Tensor:
    picture: torch.Tensor = autoencoder.decode(latents, return_dict=False)[0]
    return picture


@torch.inference_mode()
def in_tiles(
    autoencoder: Any, latents: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> torch.Tensor:
    monkeypatch.setattr(tiling, "free_bytes", lambda _: 0)
    return tiling.decode(autoencoder, latents)


@torch.inference_mode()
def beside_each_other(autoencoder: Any, latents: torch.Tensor) -> torch.Tensor:
    """Tiles without overlap: what a test of seams must find."""
    side = autoencoder.tile_latent_min_size
    rows = [
        torch.cat([whole(autoencoder, part) for part in row.split(side, dim=3)], dim=3)
        for row in latents.split(side, dim=2)
    ]
    return torch.cat(rows, dim=2)


def unevenness(picture: torch.Tensor, column: int) -> float:
    """How much more brightness changes at a column than around it."""
    changes = (picture[..., 1:] - picture[..., :-1]).abs().mean((0, 1, 2))
    around = changes[column - 24 : column + 24].median()
    return float(changes[column - 1 : column + 2].max() / around)


def test_what_fits_is_decoded_whole(autoencoder: Any, latents: torch.Tensor) -> None:
    with torch.inference_mode():
        assert torch.equal(tiling.decode(autoencoder, latents), whole(autoencoder, latents))


def test_a_small_picture_is_never_cut(
    autoencoder: Any, latents: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = latents[..., :32, :32]
    expected = whole(autoencoder, small)
    assert torch.equal(in_tiles(autoencoder, small, monkeypatch), expected)


def test_tiles_have_no_seams(
    autoencoder: Any, latents: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiled = in_tiles(autoencoder, latents, monkeypatch)
    expected = whole(autoencoder, latents)
    assert tiled.shape == expected.shape
    assert (tiled - expected).abs().mean() * 127.5 < 8
    edge = 8 * autoencoder.tile_latent_min_size
    overlap_starts = int(0.75 * edge)
    for column in (overlap_starts, edge):
        assert unevenness(tiled, column) < 1.6
    assert unevenness(beside_each_other(autoencoder, latents), edge) > 2.5


def test_out_of_memory_is_tried_again_in_tiles(
    autoencoder: Any, latents: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles = in_tiles(autoencoder, latents, monkeypatch)
    monkeypatch.undo()

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError

    # Tiles go past `decode`.
    monkeypatch.setattr(autoencoder, "decode", full)
    with torch.inference_mode():
        assert torch.equal(tiling.decode(autoencoder, latents), tiles)
        with pytest.raises(torch.OutOfMemoryError):
            tiling.decode(autoencoder, latents[..., :32, :32])


def test_the_estimate_is_what_was_counted() -> None:
    """2.013 GB at 1024 x 1024 of SDXL's decoder in half precision."""

    class Sdxl:
        class config:  # noqa: N801
            block_out_channels = (128, 256, 512, 512)

    latents = torch.empty(1, 4, 128, 128, dtype=torch.float16, device="meta")
    assert tiling.needed_bytes(Sdxl, latents) == pytest.approx(2.013e9 * 1.15, rel=0.01)
