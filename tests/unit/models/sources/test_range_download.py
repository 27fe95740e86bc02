"""Range downloads: the journal and resumed attempts."""

from __future__ import annotations

import base64
import errno
import os
import threading
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.sources.base import SourceError, SourceFile
from models.sources.progress import FileProgress, Progress
from models.sources.range_download import ChecksumError, TransferOptions, download

CONTENT = os.urandom(10_000)
OPTIONS = TransferOptions(workers=3, range_bytes=1024)


class Server:
    """Serves ranges of CONTENT, and dies after some."""

    def __init__(self, dies_after: int = 10**9, content: bytes = CONTENT) -> None:
        self._content = content
        self._left = dies_after
        self._lock = threading.Lock()
        self.served: list[int] = []

    def __call__(self, stream: BinaryIO, start: int, end: int) -> None:
        with self._lock:
            self._left -= 1
            if self._left < 0:
                raise ConnectionError("gone")
            self.served.append(start)
        middle = (start + end) // 2
        stream.write(self._content[start:middle])
        stream.write(self._content[middle : end + 1])


def make_source_file(content: bytes = CONTENT, version: str = "1") -> SourceFile:
    crc = base64.b64encode(google_crc32c.Checksum(content).digest()).decode()
    return SourceFile("x", len(content), crc32c=crc, version=version)


def fetch(server: Server, target: Path, file: SourceFile | None = None) -> Progress:
    progress = Progress()
    download(server, file or make_source_file(), "gs://b/x", target, progress, OPTIONS)
    return progress


@settings(max_examples=25)
@given(st.lists(st.integers(0, 9), max_size=4))
def test_after_any_deaths_no_range_is_fetched_twice(
    tmp_path_factory: pytest.TempPathFactory, deaths: list[int]
) -> None:
    target = tmp_path_factory.mktemp("t") / "x"
    served: list[int] = []
    for death in deaths:
        server = Server(death)
        try:
            fetch(server, target)
        except ConnectionError:
            assert not target.exists()
        served += server.served
        if target.exists():
            break
    else:
        server = Server()
        progress = fetch(server, target)
        served += server.served
        (file,) = progress.snapshot()
        assert (file.status, file.bytes_downloaded, file.percent) == ("verifying", 10_000, 100.0)
    assert target.read_bytes() == CONTENT
    assert sorted(served) == list(range(0, 10_000, 1024))
    assert [path.name for path in target.parent.iterdir()] == ["x"]


def test_new_object_version_restarts_the_download(tmp_path: Path) -> None:
    target = tmp_path / "x"
    with pytest.raises(ConnectionError):
        fetch(Server(5), target)
    other = CONTENT[::-1]
    server = Server(content=other)
    fetch(server, target, make_source_file(other, version="2"))
    assert len(server.served) == 10
    assert target.read_bytes() == other


def test_a_journal_line_that_a_kill_cut_short_does_not_count(tmp_path: Path) -> None:
    target = tmp_path / "x"
    with pytest.raises(ConnectionError):
        fetch(Server(4), target)
    journal = target.with_name("x.journal")
    lines = journal.read_text().rstrip("\n")
    journal.write_text(lines)
    server = Server()
    fetch(server, target)
    assert len(server.served) == 7
    assert target.read_bytes() == CONTENT


def test_damage_is_thrown_away(tmp_path: Path) -> None:
    target = tmp_path / "x"
    with pytest.raises(ChecksumError, match=r"gs://b/x: .*CRC32C"):
        fetch(Server(content=CONTENT[:-1] + b"?"), target)
    assert not list(tmp_path.iterdir())


def test_a_short_range_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="early"):
        fetch(Server(content=CONTENT[:5000]), tmp_path / "x")


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "posix_fallocate", full)
    server = Server()
    with pytest.raises(SourceError, match="no room for 10000 bytes"):
        fetch(server, tmp_path / "x")
    assert not server.served


def test_an_empty_object(tmp_path: Path) -> None:
    target = tmp_path / "x"
    fetch(Server(), target, make_source_file(b""))
    assert target.read_bytes() == b""


def test_progress_reports_every_block() -> None:
    heard: list[FileProgress] = []
    progress = Progress(heard.append)
    progress.begin("x", 200, 50)
    progress.advance("x", 50)
    progress.mark("x", "verifying")
    progress.mark_all("verifying", "done")
    assert [(file.status, file.percent) for file in heard] == [
        ("downloading", 25.0),
        ("downloading", 50.0),
        ("verifying", 50.0),
        ("done", 50.0),
    ]
