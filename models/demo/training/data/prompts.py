"""Prompts in the installation's wording, varied so that no single word determines the era."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.demo.training.data.eras import ERAS

CAMERA = (
    "aerial photography",
    "aerial photograph",
    "aerial view",
    "drone photo",
    "drone photography",
    "satellite image",
    "top-down view",
    "bird's eye view",
    "seen from above",
)
LANDSCAPE = (
    "hills, valleys",
    "hills and valleys",
    "rolling hills",
    "mountains, lakes",
    "ridges and valleys",
    "islands",
    "coastline",
    "varied terrain",
    "river valley",
    "landscape",
)
QUALITY = (
    "vibrant hyper detailed photorealistic",
    "hyper detailed photorealistic",
    "highly detailed",
    "photorealistic",
    "vibrant colors",
    "sharp focus",
    "realistic, 8k",
    "masterpiece, best quality",
    "dramatic light",
)
BIOMES = (
    "temperate forest biome",
    "rainforest",
    "boreal forest",
    "coastal wetlands",
    "desert",
    "arctic tundra",
    "alpine",
    "savanna",
    "grassland steppe",
    "mediterranean scrub",
    "tropical island",
    "swamp",
    "deciduous woods",
    "plains",
)
FLAWS = (
    "blurry",
    "warped",
    "sketch",
    "cartoon",
    "illustration",
    "oversaturated",
    "fish-eye lens",
    "low quality",
    "distorted",
    "out of focus",
)

DROPPED = 0.11
"""Share of dropped training prompts, for classifier-free guidance (arXiv:2207.12598)."""


def _pick(rng: np.random.Generator, phrases: Sequence[str], count: int = 1) -> list[str]:
    return [phrases[i] for i in rng.permutation(len(phrases))[:count]]


def _draw_era_phrases(rng: np.random.Generator, era: str) -> list[str]:
    """Draw a name of the era, some of its details, or both."""
    names, details = ERAS[era].names, ERAS[era].details
    form = rng.random()
    if form < 0.2:
        return _pick(rng, names)
    if form < 0.35:
        return _pick(rng, details, int(rng.integers(2, 4)))
    return _pick(rng, names) + _pick(rng, details, int(rng.integers(1, 4)))


def make_prompt(rng: np.random.Generator, era: str) -> str:
    """Return a random prompt for an intact image of the era; other parts are optional."""
    parts = [_draw_era_phrases(rng, era)]
    if rng.random() < 0.15:
        return ", ".join(parts[0])
    for phrases, probability in ((CAMERA, 0.7), (LANDSCAPE, 0.6), (QUALITY, 0.55), (BIOMES, 0.35)):
        if rng.random() < probability:
            parts.insert(int(rng.integers(len(parts) + 1)), _pick(rng, phrases))
    return ", ".join(phrase for part in parts for phrase in part)


def make_flawed_prompt(rng: np.random.Generator, era: str) -> str:
    """Return a random prompt for a degraded image: words of negative prompts, sometimes the era."""
    flaws = _pick(rng, FLAWS, int(rng.integers(2, len(FLAWS))))
    return ", ".join(flaws + (_draw_era_phrases(rng, era) if rng.random() < 0.4 else []))
