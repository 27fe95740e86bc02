"""Decoding and encoding in overlapping tiles, where a whole picture's activations would not fit."""

from __future__ import annotations

from typing import Any

import psutil
import structlog
import torch

log = structlog.get_logger(__name__)

_CHANNELS = 7.5
"""Numbers per pixel that the decoder holds at most, over the width of its last block; counted at
SDXL's size (benchmarks.memory: 2.01 GB at 1024 x 1024 in half precision, of a width of 128)."""
_MARGIN = 1.15


def decode(autoencoder: Any, latents: torch.Tensor) -> torch.Tensor:
    """Latents [1, 4, h/8, w/8] to a picture [1, 3, h, w], whole if memory allows.

    Otherwise in tiles of the autoencoder's native size, a quarter of each laid over the next and
    blended linearly (diffusers' `tiled_decode`, which keeps no state).

    Raises:
        torch.OutOfMemoryError: not even a tile fits.
    """
    if divides(autoencoder, latents) and needed_bytes(autoencoder, latents) > free_bytes(latents):
        return _tiled(autoencoder, latents)
    try:
        return autoencoder.decode(latents, return_dict=False)[0]
    except torch.OutOfMemoryError:
        if not divides(autoencoder, latents):
            raise
    if latents.device.type == "cuda":
        torch.cuda.empty_cache()
    return _tiled(autoencoder, latents)


def encode(autoencoder: Any, picture: torch.Tensor) -> Any:
    """A picture [1, 3, h, w] in [-1, 1] to the distribution of its latents, whole if memory allows.

    Otherwise in tiles, as `decode`; encoding holds no more than decoding does.

    Raises:
        torch.OutOfMemoryError: not even a tile fits.
    """
    height, width = picture.shape[-2:]
    latents = picture.new_empty((1, 4, height // 8, width // 8))
    if divides(autoencoder, latents) and needed_bytes(autoencoder, latents) > free_bytes(latents):
        return _tiled_encode(autoencoder, picture)
    try:
        return autoencoder.encode(picture).latent_dist
    except torch.OutOfMemoryError:
        if not divides(autoencoder, latents):
            raise
    if picture.device.type == "cuda":
        torch.cuda.empty_cache()
    return _tiled_encode(autoencoder, picture)


def divides(autoencoder: Any, latents: torch.Tensor) -> bool:
    """Whether the picture is larger than a tile, by an autoencoder that has tiles."""
    tile = getattr(autoencoder, "tile_latent_min_size", None)
    return tile is not None and max(latents.shape[-2:]) > tile


def needed_bytes(autoencoder: Any, latents: torch.Tensor) -> int:
    """What decoding a whole picture holds at most, in bytes."""
    height, width = latents.shape[-2:]
    numbers = _CHANNELS * autoencoder.config.block_out_channels[0] * height * width * 64
    return int(numbers * latents.dtype.itemsize * _MARGIN)


def free_bytes(latents: torch.Tensor) -> int:
    """Memory that may be had on the latents' device, in bytes."""
    if latents.device.type != "cuda":
        return psutil.virtual_memory().available
    free, _ = torch.cuda.mem_get_info(latents.device)
    cached = torch.cuda.memory_reserved(latents.device) - torch.cuda.memory_allocated(
        latents.device
    )
    return free + cached


def _tiled(autoencoder: Any, latents: torch.Tensor) -> torch.Tensor:
    height, width = latents.shape[-2:]
    log.info("decoded in tiles", width=8 * width, height=8 * height)
    picture: torch.Tensor = autoencoder.tiled_decode(latents, return_dict=False)[0]
    return picture


def _tiled_encode(autoencoder: Any, picture: torch.Tensor) -> Any:
    height, width = picture.shape[-2:]
    log.info("encoded in tiles", width=width, height=height)
    return autoencoder.tiled_encode(picture).latent_dist
