"""Prometheus gauges of the runner's state."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily

from common.protocol import RunnerStatus

_MEGABYTE = 1e6
_READY = {"ready", "degraded"}


def render_runner_gauges(status: RunnerStatus) -> str:
    """Return the runner's state in the Prometheus text format.

    Each scrape builds new gauges, so that values of a killed runner are not repeated.
    """
    return generate_latest(_StatusCollector(status)).decode()


class _StatusCollector:
    """Prometheus collector for one runner status; generate_latest takes it as a registry."""

    def __init__(self, status: RunnerStatus) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        status = self._status
        yield _gauge("ready", "1 if requests start immediately, else 0", status.state in _READY)
        yield _gauge("queue_waiting", "Requests waiting for the device", status.waiting)
        yield _gauge("queue_running", "Requests in progress on the device", status.running)
        yield _gauge(
            "queue_estimated_seconds",
            "Estimated seconds until all waiting and running requests are done",
            status.estimated_seconds,
        )
        yield _gauge(
            "load_errors", "Weights that failed to load or download", len(status.load_errors)
        )
        unfinished = sum(
            float(file["bytes_downloaded"]) < float(file["total_bytes"])
            for file in status.downloads.values()
        )
        yield _gauge("downloads_unfinished", "Files whose download is not complete", unfinished)
        yield _gauge(
            "runner_memory_bytes", "Resident memory of the runner", status.ram_mb * _MEGABYTE
        )
        resident = GaugeMetricFamily(
            "experimance_resident_bytes", "Bytes of loaded weights, by kind", labels=["kind"]
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
            yield _gauge("device_memory_used_bytes", "GPU memory in use by all processes", used)
            yield _gauge("device_memory_total_bytes", "Total GPU memory", total)
        if self._status.gpu_utilization is not None:
            utilization = self._status.gpu_utilization
            yield _gauge("device_utilization_ratio", "GPU utilization, 0 to 1", utilization)


def _gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"experimance_{name}", meaning, value=float(value))
