"""Imports from a bucket: Google's own client against an emulator that misbehaves."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from models.importer import ImportingError
from testing.faulty_bucket import BUCKET, Fault, FaultyBucket
from testing.imports import TRANSFER, Site, publish
from tests.support.calls import PATIENCE
from tests.support.waiting import wait_until

LORA = "demo/loras/drone.safetensors"


@pytest.fixture(scope="module")
def shared_bucket() -> Iterator[FaultyBucket]:
    with FaultyBucket.running() as bucket:
        publish(bucket)
        yield bucket


@pytest.fixture
def bucket(shared_bucket: FaultyBucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyBucket]:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", shared_bucket.url)
    kept = {name: shared_bucket.content(name) for name in (LORA,)}
    shared_bucket.faults = []
    shared_bucket.bytes_sent = 0
    yield shared_bucket
    shared_bucket.faults = []
    shared_bucket.most_bytes = math.inf
    for name, content in kept.items():
        shared_bucket.put(name, content)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site")


@dataclass(frozen=True)
class Imported:
    """A finished first import: its site, what it said, and how many entries were new."""

    site: Site
    said: list[str]
    new: int


@pytest.fixture(scope="module")
def imported(shared_bucket: FaultyBucket, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    site, said = Site(tmp_path_factory.mktemp("imported")), list[str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", shared_bucket.url)
        new = site.run_import(said.append)
    return Imported(site, said, new)


@pytest.fixture
def filled_site(imported: Imported, site: Site) -> Site:
    """A site after a first import."""
    shutil.copytree(imported.site.folder, site.folder)
    return site


def edit(site: Site, before: str, after: str) -> None:
    text = site.catalog.file.read_text(encoding="utf-8")
    assert before in text
    site.catalog_file.write_text(text.replace(before, after), encoding="utf-8")


def test_a_catalog_in_a_bucket_is_imported_and_labelled(
    imported: Imported, bucket: FaultyBucket, filled_site: Site
) -> None:
    assert imported.new == 3
    assert filled_site.problems() == []
    again: list[str] = []
    assert filled_site.run_import(again.append) == 0
    assert bucket.bytes_sent == 0
    words = [line.split()[0] for line in imported.said]
    # What nothing has pinned is said to be trusted, by the first import alone.
    assert words.count("TRUSTED") == 4
    assert [word for word in words if word != "TRUSTED"] == ["imported"] * 3
    assert [line.split()[0] for line in again] == ["present"] * 3
    (yaml,) = (filled_site.folder / "models").glob("sdxl-controlnet/*/model.yaml")
    text = yaml.read_text(encoding="utf-8")
    for label in ("licence: Apache-2.0", "catalog: bucket", f"gs://{BUCKET}/demo/controlnet"):
        assert label in text
    assert f"digest: {yaml.parent.name}" in text


def test_the_public_address_is_the_same_bucket(
    bucket: FaultyBucket, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(site, f"gs://{BUCKET}/{LORA}", f"https://storage.googleapis.com/experimance_models/{LORA}")
    with pytest.raises(ImportingError, match=r"loras.drone: .*does not exist"):
        site.run_import()
    edit(site, "https://storage.googleapis.com/experimance_models/", "https://example.org/x/")
    with pytest.raises(ImportingError, match="must lie under GOOGLE_STORAGE_BASE"):
        site.run_import()


def test_transient_faults_are_retried(bucket: FaultyBucket, site: Site) -> None:
    bucket.faults = [
        Fault("truncate", times=3, skip=5),
        Fault("reset", times=3, skip=5),
        Fault("flip", times=1, skip=9),
        Fault("status", times=8, skip=5),
        Fault("status", times=4, skip=5, status=429),
    ]
    assert site.run_import() == 3
    assert [fault for fault in bucket.faults if fault.times] == [], "each has happened"
    assert site.problems() == []


def test_permanent_faults_are_reported(bucket: FaultyBucket, site: Site) -> None:
    """One after the other, and once they are gone the import succeeds."""
    for fault, said in (
        (Fault("status", times=10**6, status=403), r"refuses access \(403\).*GOOGLE_APPLICATION"),
        (Fault("flip", times=10**6), "does not match the bucket's CRC32C"),
        (Fault("whole", times=10**6, skip=1), "more than the requested range"),
        (Fault("status", times=10**6, status=404), "does not exist"),
    ):
        bucket.faults = [fault]
        with pytest.raises(ImportingError, match=f"models.base: gs://.*{said}") as caught:
            site.run_import()
        assert str(site.folder) not in str(caught.value)
        assert site.problems(complete=False) == []
    bucket.faults = []
    assert site.run_import() == 3
    assert site.problems() == []


def test_missing_object_is_reported_before_any_download(bucket: FaultyBucket, site: Site) -> None:
    edit(site, "drone.safetensors", "gone.safetensors")
    with pytest.raises(ImportingError, match=r"loras.drone: .*gone.safetensors does not exist"):
        site.run_import()
    assert bucket.bytes_sent == 0


def test_an_object_replaced_between_two_ranges_is_begun_again(
    bucket: FaultyBucket, site: Site
) -> None:
    # 68 ranges belong to the entries before the LoRA.
    bucket.faults = [Fault("replace", only="drone", skip=2)]
    assert site.run_import() == 3
    (stored,) = (site.folder / "models").glob("sdxl-lora/*/lora.safetensors")
    assert stored.read_bytes() == bucket.content(LORA)
    assert stored.read_bytes()[-4:] == bytes(4), "the object as replaced"


def without_lora(site: Site) -> Site:
    """Remove the LoRA from the store, but not its pin."""
    for folder in ("bucket.loras.drone", "sdxl-lora"):
        shutil.rmtree(site.folder / "models" / folder)
    return site


def lock_file(site: Site) -> Path:
    return site.catalog_file.with_suffix(".lock.json")


def test_pins_are_enforced(bucket: FaultyBucket, filled_site: Site) -> None:
    site = without_lora(filled_site)
    lock = json.loads(lock_file(site).read_text())
    assert set(lock[f"gs://{BUCKET}/{LORA}"]["drone.safetensors"]) == {"sha256", "size"}
    content = bucket.content(LORA)
    bucket.put(LORA, content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ImportingError, match=r"drone: .*bucket.lock.json has pinned .*--repin"):
        site.run_import()
    bucket.put(LORA, content + b"\0")
    with pytest.raises(ImportingError, match=r"loras.drone: .*bytes, but .* --repin"):
        site.run_import()
    bucket.put(LORA, content[:-1] + bytes([content[-1] ^ 1]))
    assert site.run_import(repin=True) == 3
    assert site.problems() == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PK\x03\x04" + bytes(4096), "archive"),
        (b"\x80\x02}q\x00." + bytes(4096), "pickle"),
        (bytes(100), "safetensors"),
    ],
    ids=["archive", "pickle", "zeros"],
)
def test_only_safetensors_reach_the_store(
    bucket: FaultyBucket, filled_site: Site, content: bytes, said: str
) -> None:
    site = without_lora(filled_site)
    lock = json.loads(lock_file(site).read_text())
    del lock[f"gs://{BUCKET}/{LORA}"]
    lock_file(site).write_text(json.dumps(lock))
    bucket.put(LORA, content)
    with pytest.raises(ImportingError, match=f"loras.drone: drone.safetensors.*{said}"):
        site.run_import()
    assert not list((site.folder / "models").glob("sdxl-lora"))


@pytest.mark.parametrize(
    "source", ["gs://weights/../other/x.safetensors", "gs://weights/a/../../b"]
)
def test_a_source_cannot_point_outside(bucket: FaultyBucket, site: Site, source: str) -> None:
    edit(site, f"gs://{BUCKET}/{LORA}", source)
    with pytest.raises(ImportingError, match="outside its folder"):
        site.run_import()


def test_a_full_disk_is_named_before_anything_is_downloaded(
    bucket: FaultyBucket, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(site.folder.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=30_000_000))
    with pytest.raises(ImportingError, match=r"disk of BENTOML_HOME is too full.*0\.0 GB are free"):
        site.run_import()
    assert bucket.bytes_sent == 0


@pytest.mark.usefixtures("bucket")
def test_damaged_components_are_replaced(filled_site: Site) -> None:
    site = filled_site
    (weights,) = (site.folder / "models").glob("sdxl-vae/*/*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert len(site.problems()) == 1
    assert site.run_import() == 0
    assert site.run_import(verify=True) == 1
    assert site.problems() == []


def test_two_imports_at_once_do_the_work_once(bucket: FaultyBucket, site: Site) -> None:
    assert site.catalog.name == "bucket"
    both = [site.start_import(bucket.url) for _ in range(2)]
    outputs = [process.communicate(timeout=PATIENCE) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert site.problems() == []
    said = sorted(line.split()[0] for output, _ in outputs for line in output.splitlines())
    assert said.count("imported") == 3
    assert said.count("present") == 3
    assert bucket.bytes_sent < 1.05 * site_bytes(site)


def test_killed_import_resumes(bucket: FaultyBucket, site: Site) -> None:
    assert site.catalog.name == "bucket"
    for share in (0.3, 0.7):
        bucket.most_bytes = share * 24_000_000
        kill_once_it_waits(site.start_import(bucket.url), bucket)
        assert site.problems(complete=False) == []
    bucket.most_bytes = math.inf
    process = site.start_import(bucket.url)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert site.problems() == []
    again = bucket.bytes_sent - site_bytes(site)
    assert again <= 3 * TRANSFER.workers * TRANSFER.range_bytes


def kill_once_it_waits(process: subprocess.Popen[str], bucket: FaultyBucket) -> None:
    """End an import when the bucket has sent as many bytes as it may."""
    wait_until(
        lambda: bucket.bytes_sent >= bucket.most_bytes or process.poll() is not None, PATIENCE
    )
    process.kill()
    output = process.communicate()
    assert process.returncode == -signal.SIGKILL, output


def site_bytes(site: Site) -> int:
    """What one undisturbed import downloads, by its lock file."""
    lock = json.loads(lock_file(site).read_text())
    return sum(pin["size"] for files in lock.values() for pin in files.values())
