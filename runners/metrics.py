"""What the runner exports to Prometheus; BentoML's /metrics shows it."""

from __future__ import annotations

from prometheus_client import Gauge

QUEUE_SECONDS = Gauge(
    "experimance_queue_estimated_seconds",
    "Seconds until everything that waits or is being painted is done, of the busiest runner",
    multiprocess_mode="livemax",
)
BOOT_SECONDS = Gauge(
    "experimance_boot_seconds",
    "Seconds that each phase of the start took; phase ready is all of it",
    ["phase"],
    multiprocess_mode="livemax",
)


def record_boot_phase(phase: str, seconds: float) -> None:
    """Keep how long a phase of the start took, in seconds."""
    BOOT_SECONDS.labels(phase).set(seconds)
