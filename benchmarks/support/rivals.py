"""The service and the reference server side by side, and the requests that both receive."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.support.mixed import depth_png
from testing.catalog import demo_catalog
from testing.server import running_service, started_reference

SERVICE, REFERENCE = "service", "reference"
STEPS = 6
"""Steps of the installation's requests, for every variant."""
GUIDANCE_SCALE = 2.0
CONTROL_END = 0.8
"""Share of the steps after which the installation's requests leave the ControlNet out."""
_DEPTH_MAPS = 8
_TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Choice:
    """Values that a request is drawn from; sizes are (height, width) in pixels."""

    models: tuple[str, ...]
    eras: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...] = ((256, 256),)

    def draw(self, rng: np.random.Generator, number: int, steps: int = STEPS) -> dict[str, Any]:
        """Draw the JSON body of a request, with the installation's guidance and control.

        Args:
            rng: source of the random choices.
            number: selects the depth map.
            steps: denoising steps.
        """
        height, width = self.sizes[rng.integers(len(self.sizes))]
        era = str(rng.choice(self.eras))
        return {
            "prompt": demo_catalog().eras[era].prompt,
            "depth_map_b64": _depth(number % _DEPTH_MAPS, (height, width)),
            "model": str(rng.choice(self.models)),
            "era": era,
            "steps": steps,
            "cfg": GUIDANCE_SCALE,
            "control_guidance_end": CONTROL_END,
            "seed": int(rng.integers(2**32)),
            "width": width,
            "height": height,
        }


@contextlib.contextmanager
def running_rivals(
    service: str | None, reference: str | None, warm: bool = True
) -> Iterator[dict[str, str]]:
    """Yield URLs by name; a server without a URL is started with the demo set.

    Args:
        service: base URL of the service.
        reference: base URL of the reference server.
        warm: generate with every variant and LoRA first.
    """
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(running_service(service))
        if reference is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="experimance-"))
            reference = stack.enter_context(started_reference(Path(folder, "log")))
        urls = {SERVICE: ours, REFERENCE: reference}
        for url in urls.values() if warm else ():
            _warm_up(url)
        yield urls


def in_turn(turn: int) -> tuple[str, str]:
    """Return the order of the two servers in this turn; it is swapped every time."""
    return (SERVICE, REFERENCE) if turn % 2 == 0 else (REFERENCE, SERVICE)


def settle(url: str) -> None:
    """Wait until a server is idle and has loaded the default variant.

    The request goes to the end of the reference's queue, behind abandoned requests.
    """
    body = {"prompt": "hills", "mock_depth": True, "steps": 1}
    httpx.post(f"{url}/generate", json=body, timeout=_TIMEOUT_SECONDS).raise_for_status()


def client_of(url: str) -> httpx.Client:
    """Return a client with a long timeout."""
    return httpx.Client(base_url=url, timeout=_TIMEOUT_SECONDS)


def _warm_up(url: str) -> None:
    """Generate with every variant once, with every LoRA."""
    catalog = demo_catalog()
    eras = tuple(era for era, spec in catalog.eras.items() if set(spec.loras) == set(catalog.loras))
    rng = np.random.default_rng(0)
    with client_of(url) as client:
        for model in catalog.models:
            body = Choice((model,), eras[:1]).draw(rng, 0, steps=1)
            client.post("/generate", json=body).raise_for_status()
    settle(url)


@lru_cache
def _depth(number: int, size: tuple[int, int]) -> str:
    return depth_png(number, size)
