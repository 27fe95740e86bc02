"""The Kubernetes manifests, against Kubernetes' own schemas and against this service."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.http.auth import OPEN_ROUTES
from common.settings import Settings
from testing.server import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
# The oldest release that the manifests are for, and the newest that is known.
RELEASES = ("1.30", "newest")
# Environment variables that are not the service's own.
OTHERS = {"BENTOML_HOME", "BENTOML_RESULT_STORE", "HOME"}
NAME = {"app.kubernetes.io/name": "experimance-controlnet"}


def documents(file: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(file.read_text("utf-8")) if document]


MANIFESTS = {
    f"{document['kind']}": document
    for file in sorted(FOLDER.glob("*.yaml"))
    if file.name != "kustomization.yaml"
    for document in documents(file)
}


@pytest.fixture
def pod() -> dict[str, Any]:
    found: dict[str, Any] = copy.deepcopy(MANIFESTS["Deployment"]["spec"]["template"]["spec"])
    return found


@pytest.fixture
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (found,) = pod["containers"]
    return dict(found)


def find_problem(manifest: dict[str, Any], release: str) -> str:
    """Check a manifest against a release's schemas; return what is wrong with it, or nothing."""
    # The library takes two seconds to import, and every process of the suite imports this module.
    import kubernetes_validate

    version = kubernetes_validate.latest_version() if release == "newest" else release
    try:
        kubernetes_validate.validate(manifest, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return str(error.message)
    return ""


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("kind", MANIFESTS)
def test_manifest_is_valid_against_kubernetes_schemas(kind: str, release: str) -> None:
    assert find_problem(MANIFESTS[kind], release) == ""


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("Deployment", ("spec", "template", "spec", "containers", 0, "livenessProb")),
        ("HorizontalPodAutoscaler", ("spec", "metric")),
        ("NetworkPolicy", ("spec", "ingres")),
    ],
)
def test_misspelt_manifest_field_is_rejected(kind: str, path: tuple[str | int, ...]) -> None:
    broken = copy.deepcopy(MANIFESTS[kind])
    place: Any = broken
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = {}
    assert f"'{path[-1]}' was unexpected" in find_problem(broken, "newest")


def test_the_kustomization_lists_every_file() -> None:
    (kustomization,) = documents(FOLDER / "kustomization.yaml")
    files = {file.name for file in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == files
    assert set(MANIFESTS) == {
        "Namespace", "PersistentVolumeClaim", "Deployment", "Service",
        "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy",
    }  # fmt: skip


def test_everything_is_in_the_namespace_and_finds_the_pods() -> None:
    namespace = MANIFESTS["Namespace"]["metadata"]["name"]
    for kind, manifest in MANIFESTS.items():
        if kind != "Namespace":
            assert manifest["metadata"]["namespace"] == namespace, kind
    deployment = MANIFESTS["Deployment"]
    assert deployment["spec"]["template"]["metadata"]["labels"] == NAME
    assert deployment["spec"]["selector"]["matchLabels"] == NAME
    assert MANIFESTS["Service"]["spec"]["selector"] == NAME
    assert MANIFESTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == NAME
    assert MANIFESTS["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == NAME
    target = MANIFESTS["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
    assert "replicas" not in deployment["spec"]


def test_ports_agree(container: dict[str, Any]) -> None:
    (port,) = container["ports"]
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert environment["MODEL_SERVER_PORT"] == str(port["containerPort"])
    assert MANIFESTS["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
    rule = MANIFESTS["NetworkPolicy"]["spec"]["ingress"][0]
    assert [entry["port"] for entry in rule["ports"]] == [port["name"]]


def test_the_settings_are_settings(
    container: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [entry["name"] for entry in container["env"]]
    assert len(names) == len(set(names))
    ours = {entry["name"]: entry.get("value", "secret") for entry in container["env"]}
    for other in OTHERS:
        ours.pop(other)
    assert {name.lower() for name in ours} <= set(Settings.model_fields)
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.fetch_missing
    assert settings.api_token is not None


def test_token_comes_from_an_external_secret(container: dict[str, Any]) -> None:
    (token,) = (entry for entry in container["env"] if entry["name"] == "API_TOKEN")
    assert token["valueFrom"] == {"secretKeyRef": {"name": "experimance-api", "key": "token"}}
    assert "Secret" not in MANIFESTS


def test_probes_ask_routes_that_need_no_token(container: dict[str, Any]) -> None:
    paths = {
        probe: container[probe]["httpGet"]["path"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    assert paths == {
        "startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/livez"
    }  # fmt: skip
    assert set(paths.values()) <= OPEN_ROUTES


def test_the_start_has_time_to_fetch(container: dict[str, Any]) -> None:
    probe = container["startupProbe"]
    budget = probe["periodSeconds"] * probe["failureThreshold"]
    # 21 GB of sources at 100 Mbit/s, and as long again for what is done with them.
    assert budget >= 2 * 21e9 * 8 / 100e6
    assert MANIFESTS["Deployment"]["spec"]["progressDeadlineSeconds"] > budget


def test_the_pod_is_confined(pod: dict[str, Any], container: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 1034
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_written_paths_are_mounted_volumes(pod: dict[str, Any], container: dict[str, Any]) -> None:
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert set(mounts.values()) == set(volumes)
    claim = MANIFESTS["PersistentVolumeClaim"]["metadata"]["name"]
    assert volumes["store"]["persistentVolumeClaim"]["claimName"] == claim
    environment = {entry["name"]: entry.get("value", "") for entry in container["env"]}
    home = environment["BENTOML_HOME"]
    assert mounts[str(Path(home).parent)] == "store"
    # The store is shared; what BentoML empties at its start must not be.
    assert "emptyDir" in volumes[mounts[f"{home}/prometheus_multiproc_dir"]]
    assert "emptyDir" in volumes[mounts["/tmp"]]
    for name in ("HOME", "BENTOML_RESULT_STORE"):
        assert Path(environment[name]).is_relative_to("/tmp")


def test_the_image_is_a_release_not_latest(container: dict[str, Any]) -> None:
    _, _, tag = container["image"].rpartition(":")
    assert re.fullmatch(r"\d+\.\d+\.\d+(-slim)?", tag)


def test_the_metric_is_the_one_that_is_documented() -> None:
    metric = MANIFESTS["HorizontalPodAutoscaler"]["spec"]["metrics"][0]["pods"]
    scaling = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert metric["metric"]["name"] in scaling
    assert metric["target"]["type"] == "AverageValue"
