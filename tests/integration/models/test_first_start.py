"""A start with an empty store that downloads the missing weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from common.settings import load_settings
from runners.server.app import RunnerApp
from runners.server.startup_timer import StartupTimer
from testing.faulty_bucket import Fault, FaultyBucket
from testing.imports import Site, publish, store_at
from testing.server import started_service
from testing.workbench import DEVICE
from tests.support.calls import PATIENCE
from tests.support.waiting import wait_until

PICTURE = {"prompt": "hills", "mock_depth": True, "steps": 2}


@pytest.fixture(scope="module")
def bucket() -> Iterator[FaultyBucket]:
    with FaultyBucket.running() as bucket:
        publish(bucket)
        yield bucket


def settings(bucket: FaultyBucket, site: Site) -> dict[str, str]:
    return {
        "CATALOG": str(site.catalog.file),
        "FETCH_MISSING": "1",
        "TRUST_FIRST_USE": "1",
        "STORAGE_EMULATOR_HOST": bucket.url,
        "MODELS_DIR": str(site.downloads),
    }


def get(url: str) -> httpx.Response:
    return httpx.get(url, timeout=PATIENCE)


def ended_start(url: str) -> dict[str, Any]:
    """What /healthcheck tells once the start has succeeded or failed."""
    told: list[dict[str, Any]] = []

    def has_ended() -> bool:
        told.append(get(f"{url}/healthcheck").json())
        return told[-1]["status"] in {"ready", "error"}

    wait_until(has_ended, PATIENCE)
    return told[-1]


def test_service_answers_during_download_then_generates(
    bucket: FaultyBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path / "site")
    monkeypatch.setattr(bucket, "most_bytes", 1)
    log = tmp_path / "log"
    with started_service(site.folder, log, settings(bucket, site), ready=False) as url:

        def is_downloading() -> bool:
            health = get(f"{url}/healthcheck").json()
            loading = health["status"] == "loading_models"
            return loading and bool(health["startup_status"]["download_progress"])

        wait_until(is_downloading, PATIENCE)
        assert get(f"{url}/readyz").status_code == 503
        refused = httpx.post(f"{url}/generate", json=PICTURE, timeout=PATIENCE)
        assert refused.status_code == 503, refused.text
        assert refused.json()["error"] == "not_ready"
        assert int(refused.headers["Retry-After"]) > 0
        assert get(f"{url}/models").json()["available_models"] == []
        bucket.most_bytes = math.inf
        health = ended_start(url)
        assert health["status"] == "ready", log.read_text(errors="replace")[-2000:]
        progress = health["startup_status"]["download_progress"]
        unet = progress["gs://weights/demo/unet/diffusion_pytorch_model.safetensors"]
        assert unet == {
            "status": "done",
            "bytes_downloaded": unet["total_bytes"],
            "total_bytes": unet["total_bytes"],
            "percent": 100.0,
        }
        wait_until(lambda: get(f"{url}/models").json()["available_models"] == ["base"])
        painted = httpx.post(f"{url}/generate", json=PICTURE, timeout=PATIENCE)
        assert painted.status_code == 200, painted.text
    assert site.problems() == []


def test_failed_download_is_reported(bucket: FaultyBucket, tmp_path: Path) -> None:
    site = Site(tmp_path / "site")
    bucket.faults = [Fault("status", times=10**6, status=403)]
    try:
        with started_service(
            site.folder, tmp_path / "log", settings(bucket, site), ready=False
        ) as url:
            health = ended_start(url)
            error = health["startup_status"]["startup_error"]
            assert "the bucket refuses access (403)" in error
            assert str(tmp_path) not in error
            assert get(f"{url}/healthcheck").status_code == 503
            assert get(f"{url}/readyz").status_code == 503
    finally:
        bucket.faults = []


def test_unpinned_weights_are_not_fetched_without_opt_in(
    bucket: FaultyBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runner's part of a start, in this process."""
    site = Site(tmp_path / "site")
    for name, value in {**settings(bucket, site), "TRUST_FIRST_USE": "0"}.items():
        monkeypatch.setenv(name, value)
    sent = bucket.bytes_sent
    with store_at(site.folder), capture_logs() as said:
        runner = RunnerApp(site.catalog, load_settings(), [DEVICE], StartupTimer())
        runner.boot()
    status = runner.status()
    assert status.state == "error"
    assert status.loaded_models == ()
    assert bucket.bytes_sent == sent
    (reason,) = (line["reason"] for line in said if line["event"] == "fetch failed")
    assert status.load_errors["fetch"] == reason
    assert "is pinned by neither" in reason
    assert "TRUST_FIRST_USE=1" in reason
