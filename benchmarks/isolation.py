"""Does a request ever leave a trace in another's picture?

    python -m benchmarks.isolation [--requests N] [--concurrency N] [--seed N]

Draws random requests over variants, schedulers, LoRAs, eras, guidance, control windows, sizes,
decoders and seeds, sends them to one service, several at once and in random order, and then
paints each of them again, alone, in a process that has never painted anything. The figure is the
largest difference of any pixel, in steps of 1/255.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import multiprocessing
import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import httpx
import numpy as np
from PIL import Image

from benchmarks.support.mixed import draw_request
from benchmarks.support.report import finish
from testing.server import import_demo, started_service
from testing.workbench import demo_catalog

BAR = 1
Body = dict[str, Any]


def paint_alone(body: Body) -> list[bytes]:
    """What the runner paints for one request and nothing else; meant for a fresh process."""
    # Imported here, so that nothing of the runner exists before the process has its task.
    from api.handlers.resolve import RequestResolver
    from api.images.decoding import decode_depth
    from api.schemas.requests import GenerateRequest
    from common.protocol import Event, JobDone, JobFailed
    from models.store.inventory import LiveInventory
    from runners.device import Device
    from runners.engine.engine import Engine
    from runners.weights.background_loader import BackgroundLoader
    from runners.weights.model_cache import ModelCache

    shelf = LiveInventory(demo_catalog())
    resolver = RequestResolver(demo_catalog(), shelf)
    request = GenerateRequest.model_validate(body)
    job = resolver.resolve(request, "alone", time.monotonic(), previews=False).job
    depth = decode_depth(body["depth_map_b64"].encode(), job.width, job.height)
    device = Device.best()
    loader = BackgroundLoader(ModelCache(demo_catalog(), shelf, device))
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


def paint_all_alone(bodies: Sequence[Body], home: Path) -> list[list[bytes]]:
    """Every request in a process of its own, two at a time."""
    # Workers of a fork server inherit this process's environment as it was at their start.
    os.environ["BENTOML_HOME"] = str(home)
    context = multiprocessing.get_context("forkserver")
    # Import and nothing else: a fork of a process that has computed would not be fresh.
    context.set_forkserver_preload(["runners.engine.engine", "api.handlers.resolve"])
    with ProcessPoolExecutor(2, mp_context=context, max_tasks_per_child=1) as pool:
        return list(pool.map(paint_alone, bodies))


async def paint_together(url: str, bodies: Sequence[Body], concurrency: int) -> list[list[bytes]]:
    """Every request through one service, so many at once, in random order."""
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
    return [pictures[number] for number in range(len(bodies))]


def difference(one: Sequence[bytes], other: Sequence[bytes]) -> int:
    """The largest difference of any pixel between two equally long lists of picture files."""

    def pixels(data: bytes) -> np.ndarray[Any, Any]:
        return np.asarray(Image.open(io.BytesIO(data))).astype(int)

    pairs = zip(one, other, strict=True)
    return max(int(np.abs(pixels(a) - pixels(b)).max()) for a, b in pairs)


def main() -> None:
    """Paint together, paint alone, compare, and finish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    bodies = [draw_request(rng, number) for number in range(options.requests)]
    with tempfile.TemporaryDirectory(prefix="experimance-") as folder:
        home = Path(folder, "bentoml")
        import_demo(home)
        with started_service(home, Path(folder, "log")) as url:
            together = asyncio.run(paint_together(url, bodies, options.concurrency))
        alone = paint_all_alone(bodies, home)
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
