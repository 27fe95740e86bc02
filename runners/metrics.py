"""Prometheus metrics of the runner, exported on the API's `/metrics`.

docs/operations.md describes every metric. The API builds the gauges of the runner's state from its
status at each scrape, so they never outlive the runner.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from prometheus_client import Counter, Gauge, Histogram

from common.metrics_files import keep_metrics_files_bounded
from models.catalog import Catalog
from models.sources.progress import FileProgress

_SHORT = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_WAITS = (0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0)
_LOADS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
_DOWNLOADS = (1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0)

keep_metrics_files_bounded()

BOOT_SECONDS = Gauge(
    "experimance_boot_seconds",
    "Seconds of each phase of the last start; phase ready is the total",
    ["phase"],
    # A killed runner leaves its metrics file behind; the values of its successor must win.
    multiprocess_mode="mostrecent",
)
QUEUE_SECONDS = Histogram(
    "experimance_queue_seconds",
    "Seconds from a request's arrival at the engine to its admission",
    buckets=_WAITS,
)
ENCODE_SECONDS = Histogram(
    "experimance_encode_seconds",
    "Seconds to prepare a request's prompt, depth map and noise before its first step",
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
    "Images in one denoising step",
    buckets=(1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0),
)
STEPS = Counter("experimance_steps", "Denoising steps, counted per image", ["model"])
DECODE_SECONDS = Histogram(
    "experimance_decode_seconds",
    "Seconds from final latents to pixels, per image",
    ["decoder"],
    buckets=_SHORT,
)
SAVE_SECONDS = Histogram(
    "experimance_save_seconds",
    "Seconds from pixels to an encoded file, per image",
    ["format"],
    buckets=_SHORT,
)
ESTIMATE_SECONDS = Histogram(
    "experimance_estimate_seconds",
    "Device seconds to estimate the depth of a photograph",
    ["name"],
    buckets=_SHORT,
)
PICTURES = Counter("experimance_pictures", "Images generated and encoded", ["model"])
VARIANT_SWITCHES = Counter(
    "experimance_variant_switches", "Steps with a different model than the previous step"
)
ADAPTER_SWITCHES = Counter(
    "experimance_adapter_switches", "Steps with different LoRAs or strengths than the previous step"
)
MEMORY_RETRIES = Counter(
    "experimance_out_of_memory_retries",
    "Batches halved and retried because the device was out of memory",
)
NOT_FINITE_PICTURES = Counter(
    "experimance_not_finite_pictures",
    "Images rejected because of NaN or infinity in their pixels",
)
BLACK_PICTURES = Counter(
    "experimance_black_pictures", "Finished images in which every pixel is black"
)
LOAD_SECONDS = Histogram(
    "experimance_load_seconds",
    "Seconds to load weights from the store into memory",
    ["kind", "name"],
    buckets=_LOADS,
)
LOAD_FAILURES = Counter(
    "experimance_load_failures", "Failed loads of weights from the store", ["kind", "name"]
)
DOWNLOAD_BYTES = Counter("experimance_download_bytes", "Bytes of weights downloaded", ["scheme"])
DOWNLOAD_SECONDS = Histogram(
    "experimance_download_seconds",
    "Seconds from a file's first byte to its last",
    ["scheme"],
    buckets=_DOWNLOADS,
)


def record_boot_phase(phase: str, seconds: float) -> None:
    """Export the duration of a startup phase in seconds."""
    BOOT_SECONDS.labels(phase).set(seconds)


def initialize_labels(catalog: Catalog) -> None:
    """Export 0 for every label value that the catalog makes possible.

    Prometheus misses the first event of a series that does not exist before that event.
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


class DownloadMeter:
    """Progress listener of an import that counts downloaded bytes and file durations.

    `Progress` calls it from one thread at a time. A file's URL identifies it, and the URL scheme is
    the metric label. Bytes downloaded by an earlier start do not count.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first_states: dict[str, tuple[float, int]] = {}

    def __call__(self, file: FileProgress) -> None:
        """Record the new state of one file."""
        began, before = self._first_states.get(file.name, (self._clock(), file.bytes_downloaded))
        self._first_states[file.name] = began, file.bytes_downloaded
        arrived = file.bytes_downloaded - before
        if arrived <= 0:
            return
        scheme = file.name.partition(":")[0]
        DOWNLOAD_BYTES.labels(scheme).inc(arrived)
        if file.bytes_downloaded >= file.total_bytes:
            DOWNLOAD_SECONDS.labels(scheme).observe(self._clock() - began)
