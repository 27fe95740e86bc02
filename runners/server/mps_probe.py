"""Probe of Apple's GPU (MPS), used only if it reproduces an image of the CPU."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import structlog
import torch
from msgspec.structs import replace
from numpy.typing import NDArray
from PIL import Image

from common.protocol import JobFailed
from common.settings import Settings
from models.catalog import Catalog
from models.store.inventory import LiveInventory, pick_default
from runners.device import CPU, Device
from runners.diffusion.dummy_inputs import dummy_job
from runners.server.device_worker import DeviceWorker
from runners.server.warmup import paint_and_wait

log = structlog.get_logger(__name__)

Pixels = NDArray[np.uint8]
Paint = Callable[[Device], Pixels]

MEAN_TOLERANCE = 0.5
MAX_TOLERANCE = 8
"""Tolerances of pixel values, 0 to 255; float32 on two devices differs only by rounding."""


MPS = Device(torch.device("mps"), torch.float32)


def available_devices(
    catalog: Catalog, settings: Settings, candidate: Device = MPS
) -> list[Device]:
    """Return the devices to use: every CUDA GPU, else MPS if its probe succeeds, else the CPU.

    The probe costs two loads of the default variant and two images of four steps. Without weights
    in the store there is no probe, and the CPU is used.

    Args:
        catalog: the catalog with the default variant and the dtype of its weights.
        settings: the runner's settings.
        candidate: the device to probe if torch supports MPS.
    """
    devices = Device.all(catalog.dtype)
    if devices != [CPU] or not torch.backends.mps.is_available():
        return devices
    live_inventory = LiveInventory(catalog, settings.fetch_missing)
    if not live_inventory.inventory.models or not live_inventory.inventory.controlnets:
        return devices
    is_equal = paints_like_the_cpu(
        candidate, lambda device: _generate_probe(catalog, live_inventory, settings, device)
    )
    return [candidate] if is_equal else devices


def paints_like_the_cpu(candidate: Device, paint: Paint) -> bool:
    """Return whether a device reproduces the CPU's image within tolerance; False if it fails.

    Args:
        candidate: the device to probe.
        paint: function that generates the same image on a given device, uint8 [h, w, 3].
    """
    try:
        difference = np.abs(paint(candidate).astype(np.int16) - paint(CPU).astype(np.int16))
    except Exception as error:
        # Unsupported operations raise many different exception types.
        log.warning("the CPU computes: a probe picture failed", device=str(candidate), error=error)
        return False
    mean, largest = float(difference.mean()), int(difference.max())
    if mean > MEAN_TOLERANCE or largest > MAX_TOLERANCE:
        log.warning("the CPU computes: a probe picture differs", mean=mean, largest=largest)
        return False
    log.info("a probe picture equals the CPU's", device=candidate.torch_device.type, mean=mean)
    return True


def _generate_probe(
    catalog: Catalog, live_inventory: LiveInventory, settings: Settings, device: Device
) -> Pixels:
    """Generate the probe image with a temporary worker, uint8 [h, w, 3].

    Raises:
        RuntimeError: the generation failed.
    """
    found = live_inventory.inventory
    name = settings.preload_model or pick_default(found.models, catalog.default_model)
    worker = DeviceWorker(catalog, live_inventory, device, settings)
    worker.engine.start()
    try:
        variant, controlnet = worker.ensure_loaded(
            name, pick_default(found.controlnets, catalog.default_controlnet)
        )
        size = variant.spec.native_size
        slope = np.tile(np.linspace(0, 255, size, dtype=np.uint8), (size, 1))
        job = replace(
            dummy_job(variant, controlnet, size),
            steps=4,
            guidance_scale=2.0,
            scheduler="auto",
            output_format="png",
            depth=slope.tobytes(),
        )
        end = paint_and_wait(worker.engine, job)
        if isinstance(end, JobFailed):
            raise RuntimeError(end.message)
        with Image.open(io.BytesIO(end.images[0])) as image:
            return np.asarray(image.convert("RGB"))
    finally:
        worker.close()
        device.release_cache()
