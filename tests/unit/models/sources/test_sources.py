"""Accepted sources of weights and the permitted names of their files."""

from __future__ import annotations

import errno
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.sources.base import Source, SourceError, check_name, parse_source
from models.sources.gcs import GcsSource
from models.sources.local import local_files
from models.sources.lockfile import FileDigest, Lockfile, PinError
from models.sources.progress import Progress
from models.sources.range_download import TransferOptions
from testing.faulty_bucket import Fault, FaultyBucket

HERE = Path("/somewhere")
BASE = "https://storage.googleapis.com/experimance_models/"


@pytest.mark.parametrize(
    ("text", "scheme", "root", "path", "is_file"),
    [
        ("gs://bucket/a/b.safetensors", "gs", "bucket", "a/b.safetensors", True),
        ("gs://bucket/folder", "gs", "bucket", "folder", False),
        (f"{BASE}a%20b.safetensors", "gs", "experimance_models", "a b.safetensors", True),
        ("hf://owner/repo", "hf", "owner/repo", "", False),
        ("hf://owner/repo/x/y.safetensors", "hf", "owner/repo", "x/y.safetensors", True),
        ("file:weights", "file", "", "/somewhere/weights", True),
        ("file:///elsewhere", "file", "", "/elsewhere", True),
    ],
)
def test_the_forms(text: str, scheme: str, root: str, path: str, is_file: bool) -> None:
    source = parse_source(text, HERE)
    assert (source.scheme, source.container, source.path) == (scheme, root, path)
    assert source.is_file is is_file
    assert source.endpoint is None


def test_a_commit_of_a_repository() -> None:
    commit = "0123456789" * 4
    source = parse_source(f"hf://owner/repo@{commit}/x", HERE)
    assert (source.container, source.revision, source.path) == ("owner/repo", commit, "x")
    assert parse_source("hf://owner/repo/x", HERE).revision is None


def test_bucket_mirror_uses_its_own_endpoint() -> None:
    source = parse_source("https://mirror.test/models/x", HERE, "https://mirror.test/models")
    assert (source.container, source.path, source.endpoint) == (
        "models",
        "x",
        "https://mirror.test",
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gs://bucket/a/../../b", "outside its folder"),
        ("gs://bucket/%2e%2e/b", "outside its folder"),
        ("hf://owner/repo/../x", "outside its folder"),
        ("hf://owner/repo/a\\b", "outside its folder"),
        (f"{BASE}../other/x", "outside its folder"),
        ("https://example.org/x", "under GOOGLE_STORAGE_BASE"),
        ("https://storage.googleapis.com/other/x", "under GOOGLE_STORAGE_BASE"),
        ("gs://bucket", "not a source"),
        ("gs://B/x", "not a source"),
        ("hf://owner", "not a source"),
        ("hf://owner/repo@main", "not a source"),
        ("hf://owner/repo@abc123", "not a source"),
        ("ftp://x/y", "not a source"),
    ],
)
def test_invalid_sources_are_rejected(text: str, said: str) -> None:
    with pytest.raises(SourceError, match=said):
        parse_source(text, HERE)


@given(st.lists(st.sampled_from(["a", "..", ".", "", "b.json", "\\", "c\0"]), min_size=1))
def test_file_names_cannot_leave_the_folder(parts: list[str]) -> None:
    name = "/".join(parts)
    source = Source("gs://b/x", "gs", "b", "x")
    try:
        checked = check_name(source, name)
    except SourceError:
        assert set(parts) - {"a", "b.json"}
    else:
        assert set(parts) <= {"a", "b.json"}
        assert (HERE / checked).resolve().is_relative_to(HERE)


def test_an_object_that_would_land_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    blob = SimpleNamespace(name="x/../../escaped.json", size=2, crc32c="", generation=1)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    monkeypatch.setattr("google.cloud.storage.Client.list_blobs", lambda *_, **__: [blob])
    with pytest.raises(SourceError, match="outside its folder"):
        GcsSource(TransferOptions()).files(Source("gs://b/x", "gs", "b", "x"))


def test_a_link_out_of_a_local_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert [file.name for file in local_files(parse_source("file:weights", tmp_path))] == [
        "config.json"
    ]
    (tmp_path / "secret.json").write_text("{}")
    (folder / "other.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(SourceError, match=r"other\.json points outside"):
        local_files(parse_source("file:weights", tmp_path))
    with pytest.raises(SourceError, match="does not exist"):
        local_files(parse_source("file:absent", tmp_path))


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[float]]:
    """Pauses between the attempts of Google's client, by thread; they take no time."""
    made = defaultdict[int, list[float]](list)
    clock = SimpleNamespace(
        monotonic=lambda: sum(made[threading.get_ident()]),
        sleep=lambda seconds: made[threading.get_ident()].append(seconds),
    )
    for module in ("retry_base", "retry_unary"):
        monkeypatch.setattr(f"google.api_core.retry.{module}.time", clock)
    return made


@pytest.fixture(scope="module")
def faulty() -> Iterator[FaultyBucket]:
    with FaultyBucket.running() as bucket:
        yield bucket


@pytest.mark.parametrize("status", [503, 500, 429])
def test_unresponsive_bucket_times_out(
    faulty: FaultyBucket,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    status: int,
    pauses: dict[int, list[float]],
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", faulty.url)
    faulty.put("x.safetensors", b"12345678")
    faulty.faults = [Fault("status", times=10**6, status=status)]
    bucket = GcsSource(TransferOptions(retry_seconds=30))
    source = parse_source("gs://weights/x.safetensors", tmp_path)
    (file,) = bucket.files(source)
    with pytest.raises(SourceError, match=rf"cannot be fetched: \w+ \({status}\)"):
        bucket.fetch(source, file, tmp_path / "x", Progress())
    attempts = 10**6 - faulty.faults[0].times
    made = next(each for each in pauses.values() if len(each) == attempts - 1)
    # A pause is 10 s at most.
    assert 20 < sum(made) <= 30


def test_unreachable_bucket_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pauses: dict[int, list[float]]
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    bucket = GcsSource(TransferOptions(retry_seconds=30))
    with pytest.raises(SourceError, match=r"gs://weights/x cannot be fetched: ConnectionError$"):
        bucket.files(parse_source("gs://weights/x", tmp_path))
    # The client also looks for the bucket, in a thread of its own.
    assert 20 < sum(pauses[threading.get_ident()]) <= 30


def test_pins_without_a_place_to_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "write_text", refuse)
    pins = Lockfile(tmp_path / "x.lock.json")
    pins.verify_or_add("gs://b/x", "x", FileDigest("ab" * 32, 5))
    with pytest.raises(PinError, match="--repin"):
        pins.verify_or_add("gs://b/x", "x", FileDigest("cd" * 32, 5))


@pytest.mark.parametrize("text", ["{", "[]", '{"gs://b/x": {"x": {"size": 1}}}', '{"a": 1}'])
def test_invalid_lock_file_is_rejected(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.lock.json"
    path.write_text(text)
    with pytest.raises(PinError, match=r"x\.lock\.json is not a lock file"):
        Lockfile(path)
