"""The metrics that Prometheus and an autoscaler read."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import yaml
from PIL import Image
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from testing.server import ROOT
from tests.support.calls import ENDLESS, PATIENCE
from tests.support.images.pictures import encoded, hill
from tests.support.metric_table import documented_metrics, expressions, series_of
from tests.support.observed_service import Observed
from tests.support.waiting import wait_until

MANIFEST = ROOT / "deploy" / "kubernetes" / "autoscaler.yaml"


@pytest.fixture(scope="module")
def client(observed: Observed) -> httpx.Client:
    return observed.client


@pytest.fixture(scope="module")
def first_metrics(observed: Observed) -> dict[str, Metric]:
    """What was exported after the observed service's first requests."""
    return {family.name: family for family in own_metrics(observed.metrics)}


def own_metrics(text: str) -> list[Metric]:
    found = text_string_to_metric_families(text)
    return [family for family in found if family.name.startswith("experimance_")]


def export_metrics(client: httpx.Client) -> list[Metric]:
    return own_metrics(client.get("/metrics").text)


def value(client: httpx.Client, name: str) -> float:
    """The value of the one sample with this name."""
    (found,) = (
        s.value for family in export_metrics(client) for s in family.samples if s.name == name
    )
    return found


def test_the_start_is_exported(client: httpx.Client) -> None:
    text = client.get("/metrics").text
    phases = dict(re.findall(r'experimance_boot_seconds\{[^}]*phase="(\w+)"\} (\S+)', text))
    assert set(phases) == {"imports", "store", "load", "warm_up", "ready"}
    parts = sum(float(seconds) for phase, seconds in phases.items() if phase != "ready")
    assert 0 < parts <= float(phases["ready"])


def test_metrics_require_the_token(client: httpx.Client) -> None:
    url = client.base_url.join("/metrics")
    assert httpx.get(url, timeout=PATIENCE).status_code == 401
    assert client.get("/metrics").headers["content-type"].startswith("text/plain")


def test_documented_and_exported_metrics_are_equal(first_metrics: dict[str, Metric]) -> None:
    table = documented_metrics()
    here = {metric.name: metric for metric in table if not metric.gpu}
    assert len(table) - len(here) == 3
    names = {n + ("_total" if f.type == "counter" else ""): f for n, f in first_metrics.items()}
    assert set(names) == set(here)
    for name, family in names.items():
        assert family.type == here[name].kind, name
        assert family.documentation, name
        for sample in family.samples:
            assert set(sample.labels) - {"le", "pid"} == here[name].labels, name
            assert "pid" not in sample.labels, name


def test_every_name_of_rules_and_dashboard_is_exported(
    first_metrics: dict[str, Metric],
) -> None:
    series = {sample.name for family in first_metrics.values() for sample in family.samples}
    gpu = [metric for metric in documented_metrics() if metric.gpu]
    series |= {name for metric in gpu for name in series_of(metric)}
    used = {name for text in expressions() for name in re.findall(r"\bexperimance_\w+", text)}
    assert used <= series, used - series


def test_pictures_move_the_metrics_of_both_processes(
    first_metrics: dict[str, Metric],
) -> None:
    def total(name: str, /, **labels: str) -> float:
        return sum(
            sample.value
            for family in first_metrics.values()
            for sample in family.samples
            if sample.name == f"experimance_{name}" and labels.items() <= sample.labels.items()
        )

    # The warm-up has painted one too.
    assert total("pictures_total", model="lightning") == 4
    assert total("requests_total", outcome="success", model="lightning") == 2
    assert total("requests_total", outcome="unknown_model", model="none") == 1
    assert total("requests_total", outcome="deadline_exceeded", model="lightning") == 1
    assert total("requests_total") == 4
    assert total("request_seconds_count", model="lightning") == 2
    assert total("ready") == 1
    assert total("resident_bytes", kind="unet") > 1e6
    assert total("load_seconds_count", kind="model", name="lightning") == 1
    assert total("black_pictures_total") == total("not_finite_pictures_total") == 0


def test_unknown_model_name_becomes_no_label(first_metrics: dict[str, Metric]) -> None:
    models = {
        sample.labels["model"]
        for family in first_metrics.values()
        for sample in family.samples
        if "model" in sample.labels
    }
    assert models == {"base", "lightning", "hyper", "relief", "none"}


def test_unknown_paths_share_one_label(client: httpx.Client) -> None:
    def endpoints() -> set[str]:
        text = client.get("/metrics").text
        own = [line for line in text.splitlines() if 'runner_name="experimance-controlnet"' in line]
        return set(re.findall(r'endpoint="([^"]*)"', "\n".join(own)))

    for path in ("/x" * 1000, "/generate/../etc", "/models/", "/%0aforged", "/playground/none.js"):
        client.get(path)
        httpx.get(f"{client.base_url}{path}", timeout=PATIENCE)
    client.get("/models")
    found = endpoints()
    routes = {*client.get("/docs.json").json()["paths"], "/", "/playground", "/docs.json"}
    assert found <= {*routes, "/livez", "/readyz", "/healthz", "other"}, found - routes
    assert {"other", "/models", "/playground"} <= found


def test_autoscaler_metric_follows_the_queue(client: httpx.Client) -> None:
    (asked,) = yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))["spec"]["metrics"]
    name = asked["pods"]["metric"]["name"]
    wait_until(lambda: value(client, name) == 0.0)
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(client.post, "/generate", json=ENDLESS) for _ in range(3)]
        wait_until(lambda: value(client, "experimance_queue_running") == 3, PATIENCE)
        wait_until(lambda: value(client, name) > 0.5)
        assert len(client.post("/cancel", json={"all": True}).json()["cancelled"]) == 3
    assert [answer.result().status_code for answer in answers] == [409] * 3
    wait_until(lambda: value(client, name) == 0.0)


def test_estimates_are_counted(client: httpx.Client) -> None:
    def counted() -> list[float]:
        kept = {
            "experimance_requests_total": {"model": "relief", "outcome": "success"},
            "experimance_estimate_seconds_count": {"name": "relief"},
        }
        samples = [sample for family in export_metrics(client) for sample in family.samples]
        return [s.value for s in samples if s.labels == kept.get(s.name)]

    photograph = encoded(Image.fromarray(hill(256, 256)).convert("RGB"))
    before = counted()
    assert client.post("/estimate_depth", json={"image_b64": photograph}).status_code == 200
    assert [now - then for now, then in zip(counted(), before, strict=True)] == [1, 1]
