"""Isolation of requests: no request may change another's image.

    python -m benchmarks.isolation [--requests N] [--concurrency N] [--seed N] [--low-rank]

Draws random requests over variants, schedulers, LoRAs, eras, guidance, control windows, sizes,
decoders and seeds. One service answers them in random order, several at once. Each is then
generated again, alone, in a fresh process. The figure is the largest difference of any pixel, in
steps of 1/255. `--low-rank` gives both so little room for weights that LoRAs are not merged.
`--url` and `--home` use a service that already runs, and its Bento home.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import io
import multiprocessing
import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import httpx
import numpy as np
from msgspec.structs import replace
from PIL import Image

from benchmarks.support.mixed import draw_request
from benchmarks.support.report import finish
from testing.catalog import demo_catalog
from testing.imports import store_at
from testing.server import import_demo, started_service

BAR = 1
Body = dict[str, Any]


def low_rank_budget(home: Path) -> float:
    """Return a budget in GB for which the demo set's LoRAs are just not merged."""
    from models.store.inventory import LiveInventory
    from runners.device import CPU
    from runners.networks.memory_format import MemoryFormats
    from runners.weights.resident_weights import ResidentWeights
    from runners.weights.vram_budget import VramBudget
    from runners.weights.working_copies import mergeable_bytes
    from testing.workbench import demo_networks

    with store_at(home):
        live_inventory = LiveInventory(demo_catalog())
        budget = VramBudget(CPU)
        resident = ResidentWeights(demo_catalog(), live_inventory, CPU, budget, MemoryFormats())
        needed = map(resident.request_bytes, live_inventory.inventory.models.values())
        return (min(needed) + mergeable_bytes(demo_networks("base")[0].unet) - 1000) / 1e9


def paint_alone(body: Body, budget_gb: float | None = None) -> list[bytes]:
    """Generate one request in this process, which should be fresh, and return the image files.

    Raises:
        RuntimeError: the job fails.
    """
    # Imported here, so that the runner's modules hold no state before the task starts.
    from api.handlers.resolve import RequestResolver
    from api.images.decoding import decode_depth
    from api.schemas.requests import GenerateRequest
    from common.protocol import Event, JobDone, JobFailed
    from models.store.inventory import LiveInventory
    from runners.device import Device
    from runners.engine.engine import Engine
    from runners.weights.background_loader import BackgroundLoader
    from runners.weights.model_cache import ModelCache
    from runners.weights.vram_budget import VramBudget

    live_inventory = LiveInventory(demo_catalog())
    resolver = RequestResolver(demo_catalog(), live_inventory)
    request = GenerateRequest.model_validate(body)
    job = resolver.resolve(request, "alone", time.monotonic(), previews=False).job
    depth = decode_depth(body["depth_map_b64"].encode(), job.width, job.height)
    device = Device.best()
    cache = ModelCache(
        demo_catalog(),
        live_inventory,
        device,
        VramBudget(device, budget_gb),
        in_use=lambda: engine.weights_in_use(),
    )
    loader = BackgroundLoader(cache, lambda: engine.wake())
    engine = Engine(loader, device)
    events: SimpleQueue[Event] = SimpleQueue()
    engine.start()
    engine.submit(replace(job, depth=depth.pixels), events.put)
    while not isinstance(last := events.get(), JobDone | JobFailed):
        pass
    engine.close()
    loader.close()
    if isinstance(last, JobFailed):
        raise RuntimeError(f"{body['request_id']}: {last.message}")
    return list(last.images)


def paint_all_alone(
    bodies: Sequence[Body], home: Path, budget_gb: float | None = None
) -> list[list[bytes]]:
    """Generate every request in a process of its own, two at a time."""
    # The fork server copies this environment when it starts, so set the store's home first.
    os.environ["BENTOML_HOME"] = str(home)
    context = multiprocessing.get_context("forkserver")
    # Only import: a fork of a process that has computed would not be fresh.
    context.set_forkserver_preload(["runners.engine.engine", "api.handlers.resolve"])
    with ProcessPoolExecutor(2, mp_context=context, max_tasks_per_child=1) as pool:
        return list(pool.map(partial(paint_alone, budget_gb=budget_gb), bodies))


async def paint_together(url: str, bodies: Sequence[Body], concurrency: int) -> list[list[bytes]]:
    """Generate every request through one service, in random order.

    Args:
        url: base URL of the service.
        bodies: JSON bodies of `POST /generate`.
        concurrency: requests in flight at once.

    Returns:
        The image files of each request, in the order of `bodies`.

    Raises:
        RuntimeError: the service answers with an error; raised in an exception group.
    """
    order = np.random.default_rng(len(bodies)).permutation(len(bodies))
    pictures: dict[int, list[bytes]] = {}
    free = asyncio.Semaphore(concurrency)

    async with httpx.AsyncClient(base_url=url, timeout=600) as client:

        async def paint(number: int) -> None:
            async with free:
                answer = await client.post("/generate", json=bodies[number])
            if answer.status_code != httpx.codes.OK:
                raise RuntimeError(f"{bodies[number]['request_id']}: {answer.text}")
            pictures[number] = [base64.b64decode(text) for text in answer.json()["images_b64"]]

        async with asyncio.TaskGroup() as group:
            for number in order:
                group.create_task(paint(int(number)))
        details = (await client.get("/models")).json()["details"]
        modes = {entry["lora_mode"] for entry in details.values() if entry["resident"]}
        print(f"LoRAs: {', '.join(sorted(modes))}")
    return [pictures[number] for number in range(len(bodies))]


def difference(one: Sequence[bytes], other: Sequence[bytes]) -> int:
    """Return the largest pixel difference between two equally long lists of image files."""

    def pixels(data: bytes) -> np.ndarray[Any, Any]:
        return np.asarray(Image.open(io.BytesIO(data))).astype(int)

    pairs = zip(one, other, strict=True)
    return max(int(np.abs(pixels(a) - pixels(b)).max()) for a, b in pairs)


def main() -> None:
    """Generate together, generate alone, compare, and finish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--low-rank", action="store_true", help="LoRAs are not merged")
    parser.add_argument("--url", default=None)
    parser.add_argument("--home", type=Path, default=None)
    options = parser.parse_args()
    if (options.url is None) != (options.home is None):
        parser.error("--url and --home belong together")
    budget_gb = None
    rng = np.random.default_rng(options.seed)
    bodies = [draw_request(rng, number) for number in range(options.requests)]
    with contextlib.ExitStack() as stack:
        if options.url is not None:
            together = asyncio.run(paint_together(options.url, bodies, options.concurrency))
            home = options.home
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="experimance-"))
            home = Path(folder, "bentoml")
            import_demo(home)
            settings = {}
            if options.low_rank:
                budget_gb = low_rank_budget(home)
                settings = {"VRAM_BUDGET_GB": str(budget_gb)}
            with started_service(home, Path(folder, "log"), settings) as url:
                together = asyncio.run(paint_together(url, bodies, options.concurrency))
        alone = paint_all_alone(bodies, home, budget_gb)
    misses = [difference(one, other) for one, other in zip(together, alone, strict=True)]
    for miss, count in sorted(Counter(misses).items()):
        print(f"largest pixel difference {miss:3}: {count} requests")
    for miss, body in zip(misses, bodies, strict=True):
        if miss > BAR:
            print({name: value for name, value in body.items() if name != "depth_map_b64"})
    finish(
        max(misses),
        BAR,
        max(misses) <= BAR,
        requests=len(bodies),
        pictures=sum(len(pictures) for pictures in together),
        concurrency=options.concurrency,
        combinations=len({(body["model"], body["scheduler"]) for body in bodies}),
    )


if __name__ == "__main__":
    main()
