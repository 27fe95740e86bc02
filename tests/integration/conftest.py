"""Calls in the background."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest


@pytest.fixture
def background(
    client: httpx.Client,
) -> Iterator[Callable[[dict[str, Any]], Future[httpx.Response]]]:
    """Posts to /generate from other threads."""
    with ThreadPoolExecutor(4) as pool:
        yield lambda body: pool.submit(client.post, "/generate", json=body)
        client.post("/cancel", json={"all": True})
