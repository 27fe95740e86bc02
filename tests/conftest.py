"""A service for the whole session: real processes, a store of its own."""

from __future__ import annotations

import os
import signal
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import structlog
from huggingface_hub import constants as hub
from xdist.scheduler import LoadFileScheduling

from models.__main__ import main as models_command
from testing.imports import store_at
from testing.server import ROOT, started_service
from tests.support.calls import PATIENCE

# What runs in a shell's background ignores interrupts, and so would every process of a test.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The default formatter of exceptions prints every local variable, tensors included: seconds each.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.dev.ConsoleRenderer(
            colors=False, exception_formatter=structlog.dev.plain_traceback
        ),
    ]
)


# A client would read the system's certificates, in more time than most of its requests take.
_NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

_SHARING_A_SERVICE = ("tests/integration/service/", "tests/integration/process/")
_QUICK_INTEGRATION = {"test_service.py", "test_requests.py", "test_hostile.py", "test_control.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts further processes than the one service, or a browser, as slow."""
    for item in items:
        _, tier, *rest = item.path.relative_to(ROOT).parts
        if tier == "e2e" or (tier == "integration" and rest[-1] not in _QUICK_INTEGRATION):
            item.add_marker("slow")


class ServiceInOneWorker(LoadFileScheduling):
    """A file's tests run in one worker, and so do those of a folder that share a service."""

    def _split_scope(self, nodeid: str) -> str:
        for folder in _SHARING_A_SERVICE:
            if nodeid.startswith(folder):
                return folder
        return str(super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadFileScheduling | None:
    """Return a scheduler that starts the service once instead of in both workers."""
    return ServiceInOneWorker(config, log)


@pytest.fixture(autouse=True)
def environment_as_it_was() -> Iterator[None]:
    """Undo what a test did to the environment: a runner in this process goes offline for good."""
    before, offline = dict(os.environ), hub.HF_HUB_OFFLINE
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)
    hub.HF_HUB_OFFLINE = offline


@pytest.fixture(scope="session")
def demo_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Bento home that holds the demo set; another process would import torch for it."""
    home = tmp_path_factory.mktemp("bentoml-home")
    with store_at(home):
        assert models_command(["import", "--catalog", "demo"]) == 0
    return home


@pytest.fixture(scope="session")
def service_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "service.log"


@pytest.fixture(scope="session")
def service_url(demo_home: Path, service_log: Path) -> Iterator[str]:
    """The URL of a running service on the demo set, which refuses nobody on a busy machine."""
    with started_service(demo_home, service_log, {"MAX_QUEUE_SECONDS": "3600"}) as url:
        yield url


@pytest.fixture
def client(service_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service_url, timeout=PATIENCE, verify=_NO_CERTIFICATES) as made:
        yield made
