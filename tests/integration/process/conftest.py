"""One service for this folder, started and stopped once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.server import linked_home
from tests.support.observed_service import Ended, Observed, observed_service


@pytest.fixture(scope="session")
def observed(demo_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """The service; BentoML empties the metrics of its home at every start, so it has its own."""
    home = linked_home(demo_home, tmp_path_factory.mktemp("home"))
    with observed_service(home, tmp_path_factory.mktemp("log") / "log") as service:
        yield service


@pytest.fixture(scope="session")
def ended(observed: Observed) -> Ended:
    """The end of the service; test_stop.py and test_telemetry.py come after what needs it."""
    return observed.stop()
