"""VAE decoding and encoding within the available memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any, TypeVar

import numpy as np
import psutil
import structlog
import torch

from runners.device_faults import is_out_of_memory
from runners.errors import NonFiniteError
from runners.networks.sdxl import SdxlModel

T = TypeVar("T")
Pixels = np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]
log = structlog.get_logger(__name__)
_PEAK_VALUES_PER_CHANNEL = 7.5
"""Peak number of values per pixel in the decoder, divided by the channels of its last block.

Measured for SDXL with benchmarks.memory: 2.01 GB at 1024 x 1024 in half precision, 128 channels."""
_MARGIN = 1.15


class PixelTransfer:
    """Pixels on their way to host memory; the device goes on with other work meanwhile.

    Args:
        image: the decoded image on the device, [3, h, w] in [0, 1].
    """

    def __init__(self, image: torch.Tensor) -> None:
        # The sum is not finite if any pixel is not.
        total = image.sum(dtype=torch.float32)
        # The rounding is that of diffusers.
        scaled = image.float().clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0)
        self._event: torch.cuda.Event | None = None
        if image.device.type == "cuda":
            self._total, self._pixels = _copy_to_pinned(total), _copy_to_pinned(scaled)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()
        else:
            self._total, self._pixels = total.cpu(), scaled.cpu()

    @property
    def is_complete(self) -> bool:
        """Whether `wait` returns at once."""
        if self._event is None:
            return True
        has_ended: bool = self._event.query()  # type: ignore[no-untyped-call]
        return has_ended

    def wait(self) -> Pixels:
        """Wait for the pixels, uint8 [h, w, 3]; for any thread.

        Raises:
            NonFiniteError: the image contains NaN or infinity.
        """
        if self._event is not None:
            self._event.synchronize()
        if not math.isfinite(self._total.item()):
            raise NonFiniteError("the decoded image contains NaN or infinity")
        pixels: Pixels = self._pixels.numpy()
        return pixels


def decode_latents(
    latents: torch.Tensor, variant: SdxlModel, decoder: str = "full", in_float32: bool = False
) -> Pixels:
    """Decode final latents and wait for the pixels, uint8 [h, w, 3]; see `start_decode`.

    Raises:
        NonFiniteError: the latents are not finite, or the decoder overflows in its dtype.
    """
    return start_decode(latents, variant, decoder, in_float32).wait()


@torch.inference_mode()
def start_decode(
    latents: torch.Tensor, variant: SdxlModel, decoder: str = "full", in_float32: bool = False
) -> PixelTransfer:
    """Decode final latents, float32 [1, 4, h/8, w/8].

    Args:
        latents: the latents of one image, on the device.
        variant: the model that provides the decoder.
        decoder: `full`, or `tiny` for variants that have one.
        in_float32: whether to decode with a temporary float32 copy of the decoder, which takes
            0.3 GB for SDXL.
    """
    network = variant.vae if decoder == "full" else variant.tiny_decoder
    if in_float32:
        network = deepcopy(network).float()
    image = decode_within_memory(
        network, unscale_latents(latents.to(network.dtype), network.config)
    )
    return PixelTransfer(image[0] / 2 + 0.5)


def unscale_latents(latents: torch.Tensor, config: Any) -> torch.Tensor:
    """Return the autoencoder's latents for the UNet's, [1, C, h/8, w/8] in the same dtype.

    Args:
        latents: latents in the UNet's range.
        config: configuration of the autoencoder; some have a mean and deviation per channel.
    """
    statistics = latent_statistics(config)
    if statistics is None:
        unscaled: torch.Tensor = latents / config.scaling_factor
        return unscaled
    # Numbers instead of tensors, because a copy from the host would wait for the device.
    channels = [
        latents[:, number : number + 1] * std / config.scaling_factor + mean
        for number, (mean, std) in enumerate(statistics)
    ]
    return torch.cat(channels, dim=1)


def latent_statistics(config: Any) -> list[tuple[float, float]] | None:
    """Return mean and standard deviation of each latent channel; None if all are 0 and 1.

    Args:
        config: configuration of the autoencoder.
    """
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is None or std is None:
        return None
    return list(zip(mean, std, strict=True))


def _copy_to_pinned(tensor: torch.Tensor) -> torch.Tensor:
    """Start a copy to pinned host memory; an event must be waited for before it is read."""
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def decode_within_memory(autoencoder: Any, latents: torch.Tensor) -> torch.Tensor:
    """Decode scaled latents [1, 4, h/8, w/8] to an image [1, 3, h, w] in [-1, 1].

    Without enough memory for the whole image, decode tiles of the VAE's native size. Adjacent tiles
    overlap by a quarter and are blended linearly (diffusers' `tiled_decode`, which is stateless).

    Raises:
        torch.OutOfMemoryError: a single tile does not fit.
    """
    return _run_within_memory(
        autoencoder,
        latents,
        whole=lambda: autoencoder.decode(latents, return_dict=False)[0],
        tiled=lambda: _decode_tiled(autoencoder, latents),
    )


def encode_within_memory(autoencoder: Any, image: torch.Tensor) -> Any:
    """Encode an image [1, 3, h, w] in [-1, 1] to the distribution of its latents.

    Without enough memory for the whole image, encode tiles, as `decode_within_memory` does. The
    estimate for decoding is used, because encoding needs no more memory.

    Raises:
        torch.OutOfMemoryError: a single tile does not fit.
    """
    height, width = image.shape[-2:]
    latents = image.new_empty((1, 4, height // 8, width // 8))
    return _run_within_memory(
        autoencoder,
        latents,
        whole=lambda: autoencoder.encode(image).latent_dist,
        tiled=lambda: _encode_tiled(autoencoder, image),
    )


def _run_within_memory(
    autoencoder: Any, latents: torch.Tensor, whole: Callable[[], T], tiled: Callable[[], T]
) -> T:
    """Return the result for the whole image, or for its tiles if memory does not suffice."""
    is_tileable = needs_tiling(autoencoder, latents)
    if is_tileable and needed_bytes(autoencoder, latents) > free_bytes(latents):
        return tiled()
    try:
        return whole()
    except RuntimeError as error:
        if not is_tileable or not is_out_of_memory(error):
            raise
    # The memory of the first attempt is free only after the `except` block.
    if latents.device.type == "cuda":
        torch.cuda.empty_cache()
    return tiled()


def needs_tiling(autoencoder: Any, latents: torch.Tensor) -> bool:
    """Return whether the autoencoder supports tiling and the image is larger than a tile."""
    tile = getattr(autoencoder, "tile_latent_min_size", None)
    return tile is not None and max(latents.shape[-2:]) > tile


def needed_bytes(autoencoder: Any, latents: torch.Tensor) -> int:
    """Estimate the peak memory in bytes of decoding the whole image."""
    height, width = latents.shape[-2:]
    values = (
        _PEAK_VALUES_PER_CHANNEL * autoencoder.config.block_out_channels[0] * height * width * 64
    )
    return int(values * latents.dtype.itemsize * _MARGIN)


def free_bytes(latents: torch.Tensor) -> int:
    """Return the available bytes on the latents' device, including the allocator's cache."""
    if latents.device.type != "cuda":
        return psutil.virtual_memory().available
    free, _ = torch.cuda.mem_get_info(latents.device)
    cached = torch.cuda.memory_reserved(latents.device) - torch.cuda.memory_allocated(
        latents.device
    )
    return free + cached


def _decode_tiled(autoencoder: Any, latents: torch.Tensor) -> torch.Tensor:
    height, width = latents.shape[-2:]
    log.info("decoded in tiles", width=8 * width, height=8 * height)
    image: torch.Tensor = autoencoder.tiled_decode(latents, return_dict=False)[0]
    return image


def _encode_tiled(autoencoder: Any, image: torch.Tensor) -> Any:
    height, width = image.shape[-2:]
    log.info("encoded in tiles", width=width, height=height)
    return autoencoder.tiled_encode(image).latent_dist
