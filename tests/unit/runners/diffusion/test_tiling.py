"""Tiled decoding: only when memory requires it, and without seams."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.tiling import changes, in_tiles, painted_latents, side_by_side, whole
from runners.diffusion import vae as tiling
from testing.workbench import demo_networks


@pytest.fixture(scope="module")
def autoencoder() -> Any:
    return demo_networks("lightning")[0].vae


@pytest.fixture(scope="module")
def latents() -> torch.Tensor:
    """Of a painted landscape, larger than a tile."""
    return painted_latents()


def unevenness(picture: torch.Tensor, column: int) -> float:
    """How much more brightness changes at a column than around it."""
    change = changes(picture)
    around = change[column - 24 : column + 24].median()
    return float(change[column - 1 : column + 2].max() / around)


def test_latents_that_fit_are_decoded_untiled(autoencoder: Any, latents: torch.Tensor) -> None:
    with torch.inference_mode():
        assert torch.equal(
            tiling.decode_within_memory(autoencoder, latents), whole(autoencoder, latents)
        )


def test_a_small_picture_is_never_cut(autoencoder: Any, latents: torch.Tensor) -> None:
    small = latents[..., :32, :32]
    expected = whole(autoencoder, small)
    assert torch.equal(in_tiles(autoencoder, small), expected)


def test_tiles_have_no_seams(autoencoder: Any, latents: torch.Tensor) -> None:
    tiled = in_tiles(autoencoder, latents)
    expected = whole(autoencoder, latents)
    assert tiled.shape == expected.shape
    assert (tiled - expected).abs().mean() * 127.5 < 8
    edge = 8 * autoencoder.tile_latent_min_size
    overlap_starts = int(0.75 * edge)
    for column in (overlap_starts, edge):
        assert unevenness(tiled, column) < 1.6
    assert unevenness(side_by_side(autoencoder, latents), edge) > 2.5


def test_out_of_memory_is_tried_again_in_tiles(
    autoencoder: Any, latents: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles = in_tiles(autoencoder, latents)

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError

    # Tiles go past `decode`.
    monkeypatch.setattr(autoencoder, "decode", full)
    with torch.inference_mode():
        assert torch.equal(tiling.decode_within_memory(autoencoder, latents), tiles)
        with pytest.raises(torch.OutOfMemoryError):
            tiling.decode_within_memory(autoencoder, latents[..., :32, :32])


def test_memory_estimate_matches_measurement() -> None:
    """2.013 GB at 1024 x 1024 of SDXL's decoder in half precision."""

    class Sdxl:
        class config:  # noqa: N801
            block_out_channels = (128, 256, 512, 512)

    latents = torch.empty(1, 4, 128, 128, dtype=torch.float16, device="meta")
    assert tiling.needed_bytes(Sdxl, latents) == pytest.approx(2.013e9 * 1.15, rel=0.01)
