"""Calls in the background, and the reference server beside the service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from testing.server import started_reference
from tests.support.calls import wait_until_idle


@pytest.fixture
def background(
    client: httpx.Client,
) -> Iterator[Callable[[dict[str, Any]], Future[httpx.Response]]]:
    """Posts to /generate from other threads."""
    wait_until_idle(client)
    with ThreadPoolExecutor(4) as pool:
        yield lambda body: pool.submit(client.post, "/generate", json=body)
        client.post("/cancel", json={"all": True})


@pytest.fixture(scope="session")
def reference_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a running reference server on the demo set."""
    with started_reference(tmp_path_factory.mktemp("log") / "reference.log") as url:
        yield url


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """Where a file appears if what a request brings is executed."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists()
