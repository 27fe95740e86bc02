"""The locks: for every Python and platform, read and written; and the bill of materials."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from email import message_from_string
from email.message import Message
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.markers import Marker, default_environment

from deploy.setup.lockfile import (
    DEVELOPMENT,
    ROOT,
    SERVING,
    Download,
    downloads,
    entries,
    pinned,
    version_of,
    without_torch,
)
from deploy.supply import sbom
from deploy.supply.lock import PLATFORMS, TARGETS, LockError, Target, resolve
from models.catalog import load_catalog
from models.catalog.schema import SECTIONS

pytestmark = pytest.mark.slow

LOCKS = [SERVING, DEVELOPMENT]
SILENT_REGISTRY = ("dns error", "error sending request", "tcp connect error", "timed out")

LOCK = """\
# Written by hand.
# download linux-x86_64 300 100
Numpy==2.4.6 ; python_full_version < '3.12' \\
    --hash=sha256:aaaa
torch==2.14.1 \\
    --hash=sha256:bbbb \\
    --hash=sha256:cccc
nvidia-cublas==13.1 ; sys_platform == 'linux' \\
    --hash=sha256:dddd
nvidia-ml-py==13.6 \\
    --hash=sha256:eeee
cuda_bindings==13.5 \\
    --hash=sha256:ffff
"""


def resolve_or_skip(lock: Path, target: Target) -> Download:
    try:
        return resolve(lock, target)
    except LockError as error:
        error.add_note(str(target))
        if any(sign in str(error) for sign in SILENT_REGISTRY):
            pytest.skip("the package registry does not answer")
        raise


@pytest.mark.parametrize("lock", LOCKS, ids=lambda file: file.stem)
def test_the_lock_resolves_with_hashes_for_every_target(lock: Path) -> None:
    """As an installation would resolve it: complete, with hashes, with wheels alone."""
    # One waits for the registry while another computes.
    with ThreadPoolExecutor() as pool:
        sizes = list(pool.map(lambda target: resolve_or_skip(lock, target), TARGETS))
    announced = downloads(lock.read_text(encoding="utf-8"))
    for size, target in zip(sizes, TARGETS, strict=True):
        assert size.total <= announced[target.platform].total, target


@pytest.mark.parametrize(
    ("lock", "said"),
    [
        (f"pydantic==2.14.3 --hash=sha256:{'0' * 64}\n", "is needed, and not in the lock"),
        (f"six==1.17.0 --hash=sha256:{'0' * 64}\n", "six==1.17.0: the registry has no file with"),
        (f"six==999 --hash=sha256:{'0' * 64}\n", "six==999"),
    ],
)
def test_a_lock_that_lacks_a_package_or_a_file_is_refused(
    tmp_path: Path, lock: str, said: str
) -> None:
    file = tmp_path / "requirements.lock"
    file.write_text(lock)
    with pytest.raises(LockError, match=re.escape(said)):
        resolve_or_skip(file, TARGETS[0])


@pytest.mark.parametrize("lock", LOCKS, ids=lambda file: file.stem)
def test_every_package_has_hashes_and_one_version_per_target(lock: Path) -> None:
    listed = list(entries(lock.read_text(encoding="utf-8")))
    assert [name for name, lines in listed if "--hash=sha256:" not in lines] == []
    systems = {"linux": "Linux", "macos": "Darwin"}
    for target in TARGETS:
        system, machine = target.platform.split("-")
        python = target.python if target.python.count(".") == 2 else f"{target.python}.0"
        environment = {
            **default_environment(),
            "python_full_version": python,
            "python_version": python.rpartition(".")[0],
            "sys_platform": {"linux": "linux", "macos": "darwin"}[system],
            "platform_system": systems[system],
            "platform_machine": machine,
        }
        chosen = [
            name
            for name, lines in listed
            if ";" not in lines
            or Marker(lines.partition(";")[2].partition("\\")[0].strip()).evaluate(environment)
        ]
        assert len(set(chosen)) == len(chosen), target
        assert {"torch", "bentoml", "diffusers"} <= set(chosen), target
        assert any(name.startswith("nvidia-cublas") for name in chosen) == (system == "linux")


def test_serving_installs_no_tool_of_development() -> None:
    serving = {name for name, _ in entries(SERVING.read_text(encoding="utf-8"))}
    development = {name for name, _ in entries(DEVELOPMENT.read_text(encoding="utf-8"))}
    assert serving < development
    tools = {"pytest", "mypy", "ruff", "mkdocs", "playwright", "hypothesis", "controlnet-aux"}
    assert not tools & serving
    assert tools <= development


def test_both_locks_pin_equal_versions() -> None:
    serving, development = (file.read_text(encoding="utf-8") for file in LOCKS)
    for name, lines in entries(serving):
        versions = {each for other, each in entries(development) if other == name}
        assert any(_parse_pin(lines) == _parse_pin(each) for each in versions), name


def _parse_pin(lines: str) -> tuple[str, set[str]]:
    """The version and the hashes, without the marker."""
    return lines.partition("==")[2].split()[0], set(re.findall(r"sha256:\w+", lines))


def test_locks_state_download_sizes_per_platform() -> None:
    for lock in LOCKS:
        sizes = downloads(lock.read_text(encoding="utf-8"))
        assert set(sizes) == set(PLATFORMS)
        for size in sizes.values():
            assert 0 < size.without_torch < size.total


def test_pip_accepts_the_lock_of_this_environment() -> None:
    """Everything is installed, so that pip has only to agree: nothing is fetched."""
    pytest.importorskip("torchvision", reason="TORCH=cpu is not the lock's torch")
    install = ["-m", "pip", "install", "--dry-run", "--no-index", "--require-hashes"]
    command = [sys.executable, *install, "--requirement", str(DEVELOPMENT)]
    settings = {"PATH": os.environ["PATH"], "PIP_CONFIG_FILE": os.devnull}
    done = subprocess.run(command, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Would install" not in done.stdout


def test_a_lock_is_read_by_package() -> None:
    assert [name for name, _ in entries(LOCK)] == [
        "numpy", "torch", "nvidia-cublas", "nvidia-ml-py", "cuda-bindings",
    ]  # fmt: skip
    assert downloads(LOCK)["linux-x86_64"].without_torch == 100
    assert version_of("torch", LOCK) == "2.14.1"
    with pytest.raises(KeyError):
        version_of("triton", LOCK)


def test_torch_is_removed_with_its_hashes_and_cuda() -> None:
    kept = without_torch(LOCK)
    assert [name for name, _ in entries(kept)] == ["numpy", "nvidia-ml-py"]
    assert kept.count("--hash") == 2


@pytest.fixture(scope="module")
def demo_bill() -> str:
    return sbom.build_sbom(load_catalog("demo"))


def test_a_written_bill_is_valid_and_deterministic(tmp_path: Path, demo_bill: str) -> None:
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    libraries = _parts(demo_bill, "library")
    for name in ("demo", "experimance"):
        file = tmp_path / name / "sbom.json"
        assert sbom.main(["--catalog", name, "--output", str(file)]) == 0
        text = file.read_text(encoding="utf-8")
        assert sbom.build_sbom(load_catalog(name)) == text
        bill = json.loads(text)
        if name != "demo":
            # The same packages, whose addresses take the validator seconds, were valid before.
            assert _parts(text, "library") == libraries
            bill["components"] = [part for part in bill["components"] if part not in libraries]
        assert validator.validate_str(json.dumps(bill)) is None


def test_hash_randomization_does_not_change_the_bill(demo_bill: str) -> None:
    command = [sys.executable, "-m", "deploy.supply.sbom"]
    environment = {**os.environ, "PYTHONHASHSEED": "1", "TZ": "Asia/Tokyo"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == demo_bill, done.stderr


def test_the_bill_has_every_package_with_version_and_hashes(demo_bill: str) -> None:
    found = {
        (part["name"], part["version"]): (part["purl"], _distribution_hashes(part))
        for part in _parts(demo_bill, "library")
    }
    locked = SERVING.read_text(encoding="utf-8")
    assert found == {
        (name, pinned(lines)[0]): (f"pkg:pypi/{name}@{pinned(lines)[0]}", set(pinned(lines)[1]))
        for name, lines in entries(locked)
    }
    assert sum(len(hashes) for _, hashes in found.values()) == locked.count("--hash=sha256:")


@pytest.mark.parametrize(
    ("about", "licences"),
    [
        ("License-Expression: mit\nLicense: old", [{"license": {"id": "MIT"}}]),
        ("License-Expression: MIT OR BSD-2-Clause", [{"expression": "MIT OR BSD-2-Clause"}]),
        ("License: Apache 2.0\nClassifier: License :: X", [{"license": {"name": "Apache 2.0"}}]),
        (
            "License: Copyright\n  and a text\nClassifier: License :: OSI Approved :: BSD License",
            [{"license": {"name": "BSD License"}}],
        ),
        ("Classifier: Topic :: Art", None),
        (None, None),
    ],
)
def test_the_bill_states_licences_as_spdx_where_it_can(
    monkeypatch: pytest.MonkeyPatch, about: str | None, licences: list[dict[str, Any]] | None
) -> None:
    def read_metadata(package: str) -> Message:
        if about is None:
            raise PackageNotFoundError(package)
        return message_from_string(about)

    monkeypatch.setattr(sbom, "metadata", read_metadata)
    monkeypatch.setattr(sbom, "entries", lambda lock: list(entries(lock))[:1])
    (package,) = _parts(sbom.build_sbom(load_catalog("demo")), "library")
    found = package.get("licenses")
    for each in found or []:
        assert each.get("license", each).pop("acknowledgement") == "declared"
    assert found == licences


def test_the_bill_has_the_source_licence_and_pins_of_weights(demo_bill: str) -> None:
    catalog = load_catalog("demo")
    weights = {part["bom-ref"]: part for part in _parts(demo_bill, "machine-learning-model")}
    assert set(weights) == {
        f"{section}/{name}" for section in SECTIONS for name in getattr(catalog, section)
    }
    lightning = weights["models/lightning"]
    assert lightning["licenses"][0]["license"]["id"] == "Apache-2.0"
    sources = {each["url"] for each in lightning["externalReferences"]}
    folder = "file:../demo/weights"
    assert sources == {folder, f"{folder}/lightning/unet", f"{folder}/tiny_decoder"}
    pins = json.loads(catalog.file.with_suffix(".lock.json").read_text(encoding="utf-8"))
    base_unet = pins[folder]["unet/diffusion_pytorch_model.safetensors"]["sha256"]
    assert base_unet in _distribution_hashes(weights["models/base"])
    assert base_unet not in _distribution_hashes(lightning)
    every = set().union(*map(_distribution_hashes, weights.values()))
    assert every == {pin["sha256"] for files in pins.values() for pin in files.values()}


def test_weights_without_pins_have_their_source_and_licence() -> None:
    bill = sbom.build_sbom(load_catalog("experimance"))
    midas = next(part for part in _parts(bill, "machine-learning-model") if part["name"] == "midas")
    assert midas["licenses"][0]["license"]["id"] == "MIT"
    assert midas["externalReferences"] == [
        {"type": "distribution", "url": "hf://Intel/dpt-swinv2-tiny-256"}
    ]


def _parts(bill: str, kind: str) -> list[dict[str, Any]]:
    return [part for part in json.loads(bill)["components"] if part["type"] == kind]


def _distribution_hashes(part: dict[str, Any]) -> set[str]:
    references = part["externalReferences"]
    assert {each["type"] for each in references} == {"distribution"}
    hashes = [each for reference in references for each in reference.get("hashes", [])]
    assert {each["alg"] for each in hashes} <= {"SHA-256"}
    return {each["content"] for each in hashes}
