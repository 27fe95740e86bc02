"""What the runner counts and times for Prometheus; the API's /metrics shows it.

docs/operations.md explains every name. Gauges of the runner's state are not here: the API makes
them from the runner's status when it is scraped, so that they never outlive the runner.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Counter, Gauge, Histogram

from api.metrics_files import keep_metrics_files_bounded
from models.catalog import Catalog

_SHORT = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_WAITS = (0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0)
_LOADS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
_DOWNLOADS = (1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0)

keep_metrics_files_bounded()

BOOT_SECONDS = Gauge(
    "experimance_boot_seconds",
    "Seconds that each phase of the last start took; phase ready is all of it",
    ["phase"],
    # A runner that was killed leaves its values behind; those of its successor count.
    multiprocess_mode="mostrecent",
)
QUEUE_SECONDS = Histogram(
    "experimance_queue_seconds",
    "Seconds from a request's arrival at the engine to its admission",
    buckets=_WAITS,
)
ENCODE_SECONDS = Histogram(
    "experimance_encode_seconds",
    "Seconds for a request's prompt, depth map and noise, before its first step",
    buckets=_SHORT,
)
TICK_SECONDS = Histogram(
    "experimance_tick_seconds",
    "Seconds of one denoising step of one batch",
    ["model"],
    buckets=_SHORT,
)
BATCH_SIZE = Histogram(
    "experimance_batch_size",
    "Pictures in one denoising step",
    buckets=(1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0),
)
STEPS = Counter("experimance_steps", "Denoising steps, each picture's for itself", ["model"])
DECODE_SECONDS = Histogram(
    "experimance_decode_seconds",
    "Seconds from final latents to pixels, per picture",
    ["decoder"],
    buckets=_SHORT,
)
SAVE_SECONDS = Histogram(
    "experimance_save_seconds",
    "Seconds from pixels to an encoded file, per picture",
    ["format"],
    buckets=_SHORT,
)
ESTIMATE_SECONDS = Histogram(
    "experimance_estimate_seconds",
    "Seconds of the device for a photograph's depth",
    ["name"],
    buckets=_SHORT,
)
PICTURES = Counter("experimance_pictures", "Pictures painted and encoded", ["model"])
VARIANT_SWITCHES = Counter(
    "experimance_variant_switches", "Steps of another model than the step before"
)
ADAPTER_SWITCHES = Counter(
    "experimance_adapter_switches", "Steps with other LoRAs or strengths than the step before"
)
MEMORY_RETRIES = Counter(
    "experimance_out_of_memory_retries",
    "Batches that were halved and tried again because the device's memory did not suffice",
)
NOT_FINITE_PICTURES = Counter(
    "experimance_not_finite_pictures",
    "Pictures that were refused because their pixels were no numbers",
)
BLACK_PICTURES = Counter(
    "experimance_black_pictures", "Finished pictures in which every pixel is black"
)
LOAD_SECONDS = Histogram(
    "experimance_load_seconds",
    "Seconds to bring weights from the store into memory",
    ["kind", "name"],
    buckets=_LOADS,
)
LOAD_FAILURES = Counter(
    "experimance_load_failures", "Weights of the store that could not be loaded", ["kind", "name"]
)
DOWNLOAD_BYTES = Counter("experimance_download_bytes", "Bytes of weights downloaded", ["scheme"])
DOWNLOAD_SECONDS = Histogram(
    "experimance_download_seconds",
    "Seconds from a file's first byte to its last",
    ["scheme"],
    buckets=_DOWNLOADS,
)


def record_boot_phase(phase: str, seconds: float) -> None:
    """Keep how long a phase of the start took, in seconds."""
    BOOT_SECONDS.labels(phase).set(seconds)


def show_zeros(catalog: Catalog) -> None:
    """Export 0 for what the catalog makes possible.

    Prometheus cannot see the first event of a series that begins with it.
    """
    entries: dict[str, Iterable[str]] = {
        "model": catalog.models,
        "controlnet": catalog.controlnets,
        "lora": catalog.loras,
        "depth_estimator": catalog.depth_estimators,
    }
    for kind, names in entries.items():
        for name in names:
            LOAD_SECONDS.labels(kind, name)
            LOAD_FAILURES.labels(kind, name)
    for estimator in catalog.depth_estimators:
        ESTIMATE_SECONDS.labels(estimator)
    for model in catalog.models:
        for metric in (TICK_SECONDS, STEPS, PICTURES):
            metric.labels(model)
    for decoder in ("full", "tiny"):
        DECODE_SECONDS.labels(decoder)
    for file_format in ("jpeg", "png", "webp"):
        SAVE_SECONDS.labels(file_format)
    for scheme in ("gs", "hf"):
        DOWNLOAD_BYTES.labels(scheme)
        DOWNLOAD_SECONDS.labels(scheme)
