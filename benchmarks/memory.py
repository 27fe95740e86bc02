"""Memory of weights and work: counted at SDXL's size, and held by the demo set.

    python -m benchmarks.memory

1. Load the demo set's three variants one after another. Each further one may add only its UNet.
2. Count SDXL in half precision on the meta device: bytes of weights by part, and the peak bytes of
   a step and of a decode. They determine how many variants fit on a card, beside a working copy for
   merged LoRAs and without one.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.support.report import finish
from models.store.inventory import LiveInventory
from runners.diffusion.batch import BatchCache
from runners.diffusion.conditioning import ConditioningBuilder
from runners.diffusion.denoise import predict_noise
from runners.diffusion.sample import Sample
from runners.weights.model_cache import ModelCache
from runners.weights.vram_budget import CONTEXT_BYTES, MARGIN
from testing.flop_count import META, sdxl
from testing.imports import store_at
from testing.live_bytes import peak_bytes
from testing.random_networks import add_random_loras
from testing.server import import_demo
from testing.workbench import CONTROLNET, DEVICE, demo_catalog, make_job

BAR = 1.0
"""Largest bytes that a further variant adds, over its UNet's bytes."""
CARDS = (12, 16, 24, 48, 80)
"""Memory of each card, in GiB."""
_GIB = 2**30
_NOT_SHARED = {"unet", "two LoRAs", "full ControlNet"}
"""Parts that each variant has for itself, or that the installation does not use."""


def held_by_variants(home: Path) -> list[dict[str, int]]:
    """Return the bytes by kind with one, two and three variants of the demo set."""
    with store_at(home):
        model_cache = ModelCache(demo_catalog(), LiveInventory(demo_catalog()), DEVICE)
        model_cache.load_controlnet(CONTROLNET)
        held = []
        for name in ("lightning", "hyper", "base"):
            model_cache.load_variant(name)
            held.append(model_cache.resident_bytes)
        return held


def weights() -> dict[str, int]:
    """Return the bytes of SDXL's parts in half precision."""
    variant, controlnet, _ = sdxl("lightning", "small")
    _, full, _ = sdxl("lightning", "full")
    first, second = variant.text_encoders
    networks = {
        "unet": [variant.unet],
        "text encoders": [first, second],
        "autoencoder": [variant.vae],
        "tiny decoder": [variant.tiny_decoder],
        "small ControlNet": [controlnet.network, controlnet.hint],
        "full ControlNet": [full.network, full.hint],
    }
    add_random_loras(variant)
    return {
        name: sum(tensor.nbytes for part in parts for tensor in part.parameters())
        for name, parts in networks.items()
    } | {"working copy": variant.loras.copied_bytes, "two LoRAs": variant.loras.size}


@torch.inference_mode()
def work(side: int) -> dict[str, int]:
    """Return the peak bytes beside the weights, for one square image with guidance."""
    variant, controlnet, device = sdxl("lightning", "small")
    job = make_job(np.zeros((side, side), np.uint8), steps=2, guidance_scale=2.0)
    conditioning = ConditioningBuilder(device).build(job, variant, controlnet)
    sample = Sample(job, 0, variant, controlnet, conditioning)
    batches = BatchCache(device)
    latents = torch.zeros(sample.latents.shape, device="meta", dtype=META.dtype)
    first = peak_bytes(partial(predict_noise, [sample], device, batches))
    return {
        "first step": first,
        "further steps": peak_bytes(partial(predict_noise, [sample], device, batches)),
        "decode": peak_bytes(partial(variant.vae.decode, latents, return_dict=False)),
        "tiny decode": peak_bytes(partial(variant.tiny_decoder.decode, latents, return_dict=False)),
    }


def variants_on(card: int, parts: Mapping[str, int], needed: int) -> int:
    """Return how many variants with shared parts fit on a card.

    Args:
        card: the card's memory in GiB.
        parts: bytes of weights by part; those that are left out take none.
        needed: peak bytes of work beside the weights.
    """
    room = card * _GIB - CONTEXT_BYTES - int(needed * MARGIN)
    own = parts["unet"] + parts.get("two LoRAs", 0)
    shared = sum(size for name, size in parts.items() if name not in _NOT_SHARED)
    return max(0, (room - shared) // own)


def main() -> None:
    """Load, count, and finish with the bytes that each further variant adds."""
    with tempfile.TemporaryDirectory(prefix="memory-") as folder:
        import_demo(Path(folder))
        held = held_by_variants(Path(folder))
    totals = [sum(kinds.values()) for kinds in held]
    added = [after - before for before, after in itertools.pairwise(totals)]
    ratios = [more / held[0]["unet"] for more in added]
    parts = weights()
    for name, size in parts.items():
        print(f"{size / 1e9:7.3f} GB  {name}")
    figures: dict[str, Any] = {}
    for side in (512, 1024, 2048):
        figures[str(side)] = {name: round(size / 1e9, 3) for name, size in work(side).items()}
        print(f"{side} x {side}, peak GB beside the weights: {figures[str(side)]}")
    needed = max(work(1024).values())
    cards = {f"{card} GiB": variants_on(card, parts, needed) for card in CARDS}
    print(f"variants that fit on a card, LoRAs merged: {cards}")
    without = {name: size for name, size in parts.items() if name != "working copy"}
    low_rank = {f"{card} GiB": variants_on(card, without, needed) for card in CARDS}
    print(f"LoRAs as low-rank products: {low_rank}")
    finish(
        {"second variant": round(ratios[0], 6), "third variant": round(ratios[1], 6)},
        BAR,
        max(ratios) <= BAR,
        weights_gb={name: round(size / 1e9, 3) for name, size in parts.items()},
        work_gb=figures,
        variants=cards,
        variants_low_rank=low_rank,
    )


if __name__ == "__main__":
    main()
