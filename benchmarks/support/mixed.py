"""Random requests over all settings that could affect the next request."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from common.scheduler_table import SCHEDULER_NAMES
from models.demo.training.data.terrain import make_terrain
from testing.catalog import demo_catalog

SIZES = ((256, 256), (256, 256), (256, 264), (320, 256))
"""(height, width) in pixels."""
PROMPTS = (
    "hills and valleys, photorealistic",
    "(snow:1.4) on the ridges, (forest:0.5), aerial view",
    ", ".join(["rolling hills, river valley, drone photography, highly detailed"] * 8),
)
WITHOUT_KARRAS = {"euler_a", "ddim", "lcm"}
_DEPTH_SEED = 8_000_000


def draw_request(rng: np.random.Generator, number: int) -> dict[str, Any]:
    """Draw the JSON body of a valid request; `number` sets its id and its depth map."""
    catalog = demo_catalog()
    height, width = SIZES[rng.integers(len(SIZES))]
    model = str(rng.choice(list(catalog.models)))
    era = str(rng.choice(list(catalog.eras)))
    start, end = sorted(rng.choice([0.0, 0.2, 0.5, 0.8, 1.0, 1.0], 2))
    body: dict[str, Any] = {
        "request_id": f"mixed-{number}",
        "prompt": f"{catalog.eras[era].prompt}, {PROMPTS[rng.integers(len(PROMPTS))]}",
        "depth_map_b64": depth_png(number, (height, width)),
        "model": model,
        "steps": int(rng.integers(1, 9)),
        "seed": int(rng.integers(2**32)),
        "width": width,
        "height": height,
        "controlnet_strength": float(rng.choice([0.0, 0.5, 0.8, 1.2])),
        "control_guidance_start": float(start),
        "control_guidance_end": float(end),
        "scheduler": str(rng.choice(SCHEDULER_NAMES)),
        "decoder": str(rng.choice(["full", "full", "tiny"])),
        "num_images": int(rng.choice([1, 1, 1, 2])),
        "output_format": "png",
    }
    if rng.random() < 0.7:
        body["cfg"] = float(rng.choice([0.0, 1.0, 1.5, 2.0, 4.0]))
    if rng.random() < 0.4:
        body["negative_prompt"] = str(rng.choice(["", "blurry, sketch", "(cartoon:1.2), warped"]))
    if rng.random() < 0.6:
        body["era"] = era
        body["lora_strength"] = float(rng.choice([0.0, 0.5, 1.0, 1.5]))
    if rng.random() < 0.4:
        names = rng.permutation(list(catalog.loras))[: rng.integers(len(catalog.loras) + 1)]
        body["loras"] = [
            {"name": str(name), "strength": float(rng.choice([0.3, 1.0, 1.5]))} for name in names
        ]
    if body["scheduler"] not in {"auto", *WITHOUT_KARRAS} and rng.random() < 0.3:
        body["use_karras_sigmas"] = bool(rng.random() < 0.5)
    return body


def depth_png(number: int, size: tuple[int, int]) -> str:
    """Return a random terrain's depth map of size (height, width) as a PNG in base64."""
    buffer = io.BytesIO()
    Image.fromarray(make_terrain(_DEPTH_SEED + number, size).depth).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
