"""Apple's GPU (MPS): used where a probe picture of the default variant equals the CPU's."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from PIL import Image

from api.settings import Settings
from models.catalog import Catalog
from models.shelf import Shelf
from models.store import default_name
from runners.device import CPU, Device
from runners.messages import Failed
from runners.station import Station
from runners.trial import trial_job
from runners.warmup import paint_and_wait

log = structlog.get_logger(__name__)

Pixels = NDArray[np.uint8]
Paint = Callable[[Device], Pixels]

MEAN_TOLERANCE = 0.5
MAX_TOLERANCE = 8
"""Of a picture's values, 0 to 255. float32 on two devices differs by rounding alone."""


MPS = Device(torch.device("mps"), torch.float32)


def available_devices(
    catalog: Catalog, settings: Settings, candidate: Device = MPS
) -> list[Device]:
    """Return the devices to compute on: every GPU, else MPS where it can be trusted, else the CPU.

    The probe costs two loads of the default variant and two pictures of four steps. Without weights
    in the store there is nothing to probe with, and the CPU serves.

    Args:
        catalog: says which variant is the default, and the precision of its weights.
        settings: of the runner.
        candidate: what is probed where torch has MPS.
    """
    devices = Device.all(catalog.dtype)
    if devices != [CPU] or not torch.backends.mps.is_available():
        return devices
    shelf = Shelf(catalog, settings.fetch_missing)
    if not shelf.inventory.models or not shelf.inventory.controlnets:
        return devices
    is_equal = paints_like_the_cpu(
        candidate, lambda device: _paint(catalog, shelf, settings, device)
    )
    return [candidate] if is_equal else devices


def paints_like_the_cpu(candidate: Device, paint: Paint) -> bool:
    """Tell whether a device paints the CPU's picture within tolerance; a failure is a no.

    Args:
        candidate: the device in question.
        paint: paints the same picture on a device, uint8 [h, w, 3].
    """
    try:
        difference = np.abs(paint(candidate).astype(np.int16) - paint(CPU).astype(np.int16))
    except Exception as error:
        # Operations that a device lacks show as errors of many kinds.
        log.warning("the CPU computes: a probe picture failed", device=str(candidate), error=error)
        return False
    mean, largest = float(difference.mean()), int(difference.max())
    if mean > MEAN_TOLERANCE or largest > MAX_TOLERANCE:
        log.warning("the CPU computes: a probe picture differs", mean=mean, largest=largest)
        return False
    log.info("a probe picture equals the CPU's", device=candidate.torch_device.type, mean=mean)
    return True


def _paint(catalog: Catalog, shelf: Shelf, settings: Settings, device: Device) -> Pixels:
    """Paint the probe by an engine of its own, which gives its memory back afterwards.

    Raises:
        RuntimeError: it could not be painted.
    """
    found = shelf.inventory
    name = settings.preload_model or default_name(found.models, catalog.default_model)
    station = Station(catalog, shelf, device, settings)
    station.engine.start()
    try:
        variant, controlnet = station.loaded(
            name, default_name(found.controlnets, catalog.default_controlnet)
        )
        size = variant.spec.native_size
        slope = np.tile(np.linspace(0, 255, size, dtype=np.uint8), (size, 1))
        job = replace(
            trial_job(variant, controlnet, size),
            steps=4,
            guidance_scale=2.0,
            scheduler="auto",
            output_format="png",
            depth=slope.tobytes(),
        )
        end = paint_and_wait(station.engine, job)
        if isinstance(end, Failed):
            raise RuntimeError(end.message)
        with Image.open(io.BytesIO(end.images[0])) as picture:
            return np.asarray(picture.convert("RGB"))
    finally:
        station.close()
        device.release_cache()
