"""The hub as an origin, against a small hub on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from testing.server import ROOT

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = os.urandom(300_000)
FILES = {"config.json": b'{"a": 1}', "vae/model.safetensors": WEIGHTS, "README.md": b"x"}


class HubHandler(BaseHTTPRequestHandler):
    """The parts of the hub's interface that downloading needs."""

    protocol_version = "HTTP/1.1"
    published: ClassVar[dict[str, str]] = {}
    asked: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self._serve(head=True)

    def do_GET(self) -> None:
        self._serve(head=False)

    def _serve(self, head: bool) -> None:
        self.asked.append(self.path)
        if self.path.startswith("/api/models/owner/repo"):
            siblings = [self._sibling(name) for name in FILES]
            answer = {"id": "owner/repo", "sha": COMMIT, "siblings": siblings}
            self._answer(200, json.dumps(answer).encode(), {}, head)
            return
        name = self.path.partition(f"/resolve/{COMMIT}/")[2]
        if name not in FILES:
            self._answer(404, b"", {"X-Error-Code": "RepoNotFound"}, head)
            return
        content = FILES[name]
        etag = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        self._answer(200, content, etag, head)

    def _sibling(self, name: str) -> dict[str, object]:
        content = FILES[name]
        entry: dict[str, object] = {"rfilename": name, "size": len(content)}
        if name.endswith(".safetensors"):
            digest = self.published.get(name, hashlib.sha256(content).hexdigest())
            entry["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 100}
        return entry

    def _answer(self, status: int, body: bytes, headers: dict[str, str], head: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if not head:
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), HubHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    HubHandler.published = {}
    HubHandler.asked.clear()


CODE = """
import sys
from pathlib import Path
from models.sources.fetcher import Fetcher, FetchOptions
from models.sources.lockfile import PinError, Lockfile
from models.sources.progress import Progress
from models.sources.base import SourceError
folder, trusting, source, *names = sys.argv[1:]
folder = Path(folder)
progress = Progress()
options = FetchOptions(folder / "d", trusts_first_use=trusting == "True")
fetcher = Fetcher(folder, Lockfile(folder / "x.lock.json"), options, progress, print)
try:
    print(sorted(fetcher.files(source)))
    brought = fetcher.download(source, names)
except (SourceError, PinError) as error:
    raise SystemExit(f"{error}")
for name in names:
    print(name, (brought / name).stat().st_size)
for file in progress.snapshot():
    print(file.name, file.percent)
"""


def bring(
    hub: str, folder: Path, source: str, *names: str, trusting: bool = True
) -> subprocess.CompletedProcess[str]:
    # In a process of its own: the hub's client reads its address when it is imported.
    return subprocess.run(
        [sys.executable, "-c", CODE, str(folder), str(trusting), source, *names],
        cwd=ROOT,
        env={**os.environ, "HF_ENDPOINT": hub, "HF_HUB_DISABLE_XET": "1"},
        capture_output=True,
        text=True,
    )


def test_a_folder_of_a_repository(hub: str, tmp_path: Path) -> None:
    done = bring(hub, tmp_path, "hf://owner/repo/vae", "model.safetensors")
    assert done.returncode == 0, done.stderr
    listed, trusted, file, progress = done.stdout.splitlines()
    assert trusted.startswith("TRUSTED  hf://owner/repo/vae: its files are not pinned")
    assert listed == "['model.safetensors']"
    assert file == "model.safetensors 300000"
    assert progress == "hf://owner/repo/vae/model.safetensors 100.0"
    lock = json.loads((tmp_path / "x.lock.json").read_text())
    pinned = lock["hf://owner/repo/vae"]["model.safetensors"]
    assert pinned == {"sha256": hashlib.sha256(WEIGHTS).hexdigest(), "size": 300_000}


@pytest.mark.slow
def test_unpinned_source_requires_trust_on_first_use(hub: str, tmp_path: Path) -> None:
    source, name = "hf://owner/repo/vae", "model.safetensors"
    refused = bring(hub, tmp_path, source, name, trusting=False)
    assert refused.returncode == 1
    assert "pinned by neither x.lock.json nor a commit" in refused.stderr
    assert "TRUST_FIRST_USE=1" in refused.stderr
    assert not [path for path in HubHandler.asked if "/resolve/" in path]
    assert bring(hub, tmp_path, source, name).returncode == 0
    shutil.rmtree(tmp_path / "d")
    again = bring(hub, tmp_path, source, name, trusting=False)
    assert again.returncode == 0
    assert "TRUSTED" not in again.stdout


def test_a_commit_pins_a_repository(hub: str, tmp_path: Path) -> None:
    source = f"hf://owner/repo@{COMMIT}/vae"
    done = bring(hub, tmp_path, source, "model.safetensors", trusting=False)
    assert done.returncode == 0, done.stderr
    assert "TRUSTED" not in done.stdout
    listed = [path for path in HubHandler.asked if path.startswith("/api/models/")]
    assert listed
    assert all(f"/revision/{COMMIT}" in path for path in listed)


@pytest.mark.slow
def test_serving_runner_never_contacts_the_hub(hub: str, tmp_path: Path) -> None:
    code = """
from huggingface_hub import hf_hub_download
from runners.server.app import go_offline
go_offline()
try:
    hf_hub_download("owner/repo", "config.json")
except Exception as error:
    print(type(error).__name__)
"""
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() in {"LocalEntryNotFoundError", "OfflineModeIsEnabled"}, done.stderr
    assert HubHandler.asked == []


def test_a_file_that_is_not_what_the_hub_published_is_refused(hub: str, tmp_path: Path) -> None:
    HubHandler.published = {"vae/model.safetensors": "0" * 64}
    done = bring(hub, tmp_path, "hf://owner/repo/vae/model.safetensors", "model.safetensors")
    assert done.returncode == 1
    assert "model.safetensors" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("hf://owner/repo/unet", "the repository has no files there"),
        ("hf://owner/absent", "no such repository"),
    ],
)
def test_missing_hub_files_are_reported(hub: str, tmp_path: Path, source: str, said: str) -> None:
    done = bring(hub, tmp_path, source)
    assert done.returncode == 1
    assert said in done.stderr
    assert source in done.stderr


@pytest.mark.slow
def test_no_hub_at_all(tmp_path: Path) -> None:
    done = bring("http://127.0.0.1:9", tmp_path, "hf://owner/repo")
    assert done.returncode == 1
    assert "hf://owner/repo cannot be fetched" in done.stderr
