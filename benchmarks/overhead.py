"""Overhead of the service over the plain pipeline.

    python -m benchmarks.overhead [--rounds N] [--size PIXELS] [--steps N]

Starts the service. This process also calls diffusers' pipeline, with its LoRAs fused, and encodes
its image. Both take the installation's request in turn: two LoRAs, guidance, control for 80 % of
the steps. The figure is the median seconds of `POST /generate` over that of the plain call. `--url`
measures a service that already runs.
"""

from __future__ import annotations

import argparse
import base64
import io
import statistics
import time
from typing import Any

import httpx
import numpy as np
from PIL import Image

from benchmarks.support.report import finish
from common.protocol import LoraWeight
from runners.diffusion.schedulers import build_scheduler
from runners.engine.image_encoding import encode_picture
from testing.heldout import heldout
from testing.server import running_service
from testing.workbench import demo_catalog, make_job, reference_arguments, reference_pipeline

BAR = 1.05
_LORAS = (LoraWeight("drone", 0.8), LoraWeight("experimance", 0.4))
_PROMPT = "aerial photography, future solarpunk urban, eco-friendly"


def plain_seconds(body: dict[str, Any], depth: np.ndarray[Any, Any]) -> float:
    """Time decoding the depth map, diffusers' pipeline, and encoding the image."""
    started = time.perf_counter()
    grey = np.asarray(Image.open(io.BytesIO(base64.b64decode(body["depth_map_b64"]))))
    job = make_job(
        grey, prompt=_PROMPT, seed=body["seed"], steps=body["steps"], guidance_scale=body["cfg"],
        control_guidance_end=body["control_guidance_end"], loras=_LORAS,
    )  # fmt: skip
    pipeline = reference_pipeline(_LORAS)
    pipeline.scheduler = build_scheduler(demo_catalog().models["base"].scheduler, "auto", None)
    picture = pipeline(**reference_arguments([job]), output_type="np").images[0]
    pixels = (picture * 255).round().astype(np.uint8)
    base64.b64encode(encode_picture(pixels, "jpeg", 90, {"prompt": _PROMPT}))
    elapsed = time.perf_counter() - started
    assert pixels.shape[:2] == depth.shape
    return elapsed


def service_seconds(client: httpx.Client, body: dict[str, Any]) -> float:
    """Time one request until its answer is read."""
    started = time.perf_counter()
    answer = client.post("/generate", json=body)
    elapsed = time.perf_counter() - started
    answer.raise_for_status()
    return elapsed


def main() -> None:
    """Alternate the two, compare their medians, and finish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=demo_catalog().models["base"].steps)
    parser.add_argument("--url", default=None)
    options = parser.parse_args()
    depth = heldout(size=(options.size, options.size), count=1)[0].depth
    buffer = io.BytesIO()
    Image.fromarray(depth).save(buffer, "PNG")
    body: dict[str, Any] = {
        "model": "base",
        "prompt": _PROMPT,
        "depth_map_b64": base64.b64encode(buffer.getvalue()).decode(),
        "width": options.size,
        "height": options.size,
        "steps": options.steps,
        "cfg": 2.0,
        "control_guidance_end": 0.8,
        "loras": [{"name": lora.name, "strength": lora.strength} for lora in _LORAS],
    }
    ours, plain = [], []
    with running_service(options.url) as url, httpx.Client(base_url=url, timeout=600) as client:
        for turn in range(options.rounds + 1):
            body["seed"] = turn
            pair = (service_seconds(client, body), plain_seconds(body, depth))
            if turn:
                ours.append(pair[0])
                plain.append(pair[1])
    ratio = statistics.median(ours) / statistics.median(plain)
    finish(
        round(ratio, 4),
        BAR,
        ratio <= BAR,
        rounds=options.rounds,
        service_seconds=round(statistics.median(ours), 4),
        plain_seconds=round(statistics.median(plain), 4),
    )


if __name__ == "__main__":
    main()
