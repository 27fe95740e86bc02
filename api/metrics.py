"""What the API counts, and the runner's state as it is at the moment of a scrape.

docs/operations.md explains every name; runners/metrics.py has the runner's counters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import Counter, Histogram, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily

from api.errors import STATUSES
from api.metrics_files import keep_metrics_files_bounded
from runners.messages import RunnerStatus

SUCCESS = "success"
NO_MODEL = "none"
"""The label of requests that ended before their model was known to exist."""

_MEGABYTE = 1e6
_REQUEST_SECONDS = (
    0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 30.0, 60.0, 120.0,
)  # fmt: skip

keep_metrics_files_bounded()

REQUESTS = Counter(
    "experimance_requests",
    "Requests for pictures by how they ended: success or the error's code",
    ["outcome", "model"],
)
REQUEST_SECONDS = Histogram(
    "experimance_request_seconds",
    "Seconds from arrival to the last byte of answers with pictures",
    ["model"],
    buckets=_REQUEST_SECONDS,
)
RUNNER_LOST = Counter(
    "experimance_runner_lost", "Calls that failed because the runner ended or did not answer"
)
RUNNER_RESTARTS = Counter(
    "experimance_runner_restarts",
    "Times that another runner process was found in the old one's place",
)


def show_zeros(models: Iterable[str]) -> None:
    """Export 0 for every outcome, so that Prometheus sees the first one of each."""
    outcomes = [SUCCESS, *(code for codes in STATUSES.values() for code in codes)]
    names = tuple(models)
    for model in names:
        REQUEST_SECONDS.labels(model)
    for model in (*names, NO_MODEL):
        for outcome in outcomes:
            REQUESTS.labels(outcome, model)


def state_of(status: RunnerStatus) -> str:
    """The runner's state in Prometheus' text format.

    Made anew for each scrape: what a runner that was killed had said of itself is not repeated.
    """
    return generate_latest(_State(status)).decode()


class _State:
    """A registry, as far as prometheus_client wants one, of a single status."""

    def __init__(self, status: RunnerStatus) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        status = self._status
        yield _gauge("ready", "Whether requests start at once", status.state in _READY)
        yield _gauge("queue_waiting", "Requests that wait for the device", status.waiting)
        yield _gauge("queue_running", "Requests under way", status.running)
        yield _gauge(
            "queue_estimated_seconds",
            "Seconds until everything that waits or is being painted is done",
            status.estimated_seconds,
        )
        yield _gauge(
            "load_errors", "Weights that could not be loaded or fetched", len(status.load_errors)
        )
        unfinished = sum(
            float(file["bytes_downloaded"]) < float(file["total_bytes"])
            for file in status.downloads.values()
        )
        yield _gauge("downloads_unfinished", "Files that have not arrived whole", unfinished)
        yield _gauge(
            "runner_memory_bytes", "Resident memory of the runner", status.ram_mb * _MEGABYTE
        )
        resident = GaugeMetricFamily(
            "experimance_resident_bytes", "Bytes of weights in memory", labels=["kind"]
        )
        for kind, size in sorted(status.resident_bytes.items()):
            resident.add_metric([kind], size)
        yield resident
        yield from self._device()

    def _device(self) -> Iterator[Metric]:
        memory = self._status.gpu_memory
        if memory:
            total = memory["total_mb"] * _MEGABYTE
            used = total - memory["free_mb"] * _MEGABYTE
            yield _gauge("device_memory_used_bytes", "GPU memory in use, by anybody", used)
            yield _gauge("device_memory_total_bytes", "GPU memory there is", total)
        if self._status.gpu_utilization is not None:
            utilization = self._status.gpu_utilization
            yield _gauge("device_utilization_ratio", "How busy the GPU is, 0 to 1", utilization)


_READY = {"ready", "degraded"}


def _gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"experimance_{name}", meaning, value=float(value))
