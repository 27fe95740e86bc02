"""The hub as an origin, against a small hub on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from models.sources.base import SourceError
from models.sources.fetcher import Fetcher, FetchOptions
from models.sources.lockfile import Lockfile, PinError
from models.sources.progress import Progress
from runners.server.app import go_offline

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = os.urandom(300_000)
ACCEPTED_TOKEN, OTHER_TOKEN = "hf_accepted", "hf_other"
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
        if self.path.startswith(("/api/models/owner/repo", "/api/models/owner/gated")):
            siblings = [self._sibling(name) for name in FILES]
            answer = {"id": "owner/repo", "sha": COMMIT, "siblings": siblings}
            self._answer(200, json.dumps(answer).encode(), {}, head)
            return
        if self.path.startswith("/owner/gated/") and not self._has_access():
            # Everyone can list a gated repository; its files are for accepted accounts.
            status = 403 if "Authorization" in self.headers else 401
            self._answer(status, b"", {"X-Error-Code": "GatedRepo"}, head)
            return
        name = self.path.partition(f"/resolve/{COMMIT}/")[2]
        if name not in FILES:
            self._answer(404, b"", {"X-Error-Code": "RepoNotFound"}, head)
            return
        content = FILES[name]
        etag = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        self._answer(200, content, etag, head)

    def _has_access(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {ACCEPTED_TOKEN}"

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


def use_hub(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with HF_ENDPOINT, which the hub's client reads when it is imported."""
    path = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{address}{path}")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


def use_token(token: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `token` as the only one that the hub's client finds."""
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no_token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)


@pytest.fixture
def small_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), HubHandler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    use_hub(f"http://127.0.0.1:{server.server_port}", monkeypatch)
    yield
    server.shutdown()
    server.server_close()
    HubHandler.published = {}
    HubHandler.asked.clear()


def bring(folder: Path, source: str, *names: str, trusting: bool = True) -> list[str]:
    """Download; what is said of it, and the percentage of each file."""
    said: list[str] = []
    progress = Progress()
    options = FetchOptions(folder / "d", trusts_first_use=trusting)
    lock = Lockfile(folder / "x.lock.json")
    fetcher = Fetcher(folder, lock, options, progress, said.append)
    assert sorted(fetcher.files(source)) == sorted(names)
    brought = fetcher.download(source, [*names])
    said += [f"{name} {(brought / name).stat().st_size}" for name in names]
    return said + [f"{file.name} {file.percent}" for file in progress.snapshot()]


@pytest.mark.usefixtures("small_hub")
def test_a_folder_of_a_repository(tmp_path: Path) -> None:
    trusted, file, progress = bring(tmp_path, "hf://owner/repo/vae", "model.safetensors")
    assert trusted.startswith("TRUSTED  hf://owner/repo/vae: its files are not pinned")
    assert file == "model.safetensors 300000"
    assert progress == "hf://owner/repo/vae/model.safetensors 100.0"
    lock = json.loads((tmp_path / "x.lock.json").read_text())
    pinned = lock["hf://owner/repo/vae"]["model.safetensors"]
    assert pinned == {"sha256": hashlib.sha256(WEIGHTS).hexdigest(), "size": 300_000}


@pytest.mark.usefixtures("small_hub")
def test_unpinned_source_requires_trust_on_first_use(tmp_path: Path) -> None:
    source, name = "hf://owner/repo/vae", "model.safetensors"
    with pytest.raises(PinError, match=r"pinned by neither x\.lock\.json nor a commit") as refused:
        bring(tmp_path, source, name, trusting=False)
    assert "TRUST_FIRST_USE=1" in str(refused.value)
    assert not [path for path in HubHandler.asked if "/resolve/" in path]
    bring(tmp_path, source, name)
    shutil.rmtree(tmp_path / "d")
    again = bring(tmp_path, source, name, trusting=False)
    assert not [line for line in again if "TRUSTED" in line]


@pytest.mark.usefixtures("small_hub")
def test_a_commit_pins_a_repository(tmp_path: Path) -> None:
    source = f"hf://owner/repo@{COMMIT}/vae"
    said = bring(tmp_path, source, "model.safetensors", trusting=False)
    assert not [line for line in said if "TRUSTED" in line]
    listed = [path for path in HubHandler.asked if path.startswith("/api/models/")]
    assert listed
    assert all(f"/revision/{COMMIT}" in path for path in listed)


@pytest.mark.usefixtures("small_hub")
def test_serving_runner_never_contacts_the_hub(tmp_path: Path) -> None:
    go_offline()
    with pytest.raises((LocalEntryNotFoundError, OfflineModeIsEnabled)):
        hf_hub_download("owner/repo", "config.json", cache_dir=tmp_path)
    assert HubHandler.asked == []


@pytest.mark.usefixtures("small_hub")
def test_a_file_that_is_not_what_the_hub_published_is_refused(tmp_path: Path) -> None:
    HubHandler.published = {"vae/model.safetensors": "0" * 64}
    with pytest.raises(SourceError, match=r"model\.safetensors"):
        bring(tmp_path, "hf://owner/repo/vae/model.safetensors", "model.safetensors")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("hf://owner/repo/unet", "the repository has no files there"),
        ("hf://owner/absent", "no such repository"),
    ],
)
@pytest.mark.usefixtures("small_hub")
def test_missing_hub_files_are_reported(tmp_path: Path, source: str, said: str) -> None:
    with pytest.raises(SourceError, match=said) as caught:
        bring(tmp_path, source)
    assert source in str(caught.value)


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (None, "accept its terms at {page} and set HF_TOKEN to a token of that account"),
        (
            OTHER_TOKEN,
            "the account of the token in HF_TOKEN has not accepted its terms; "
            "accept them at {page}",
        ),
    ],
)
@pytest.mark.usefixtures("small_hub")
def test_a_gated_repository_without_access(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str | None, said: str
) -> None:
    use_token(token, tmp_path, monkeypatch)
    source = "hf://owner/gated/vae/model.safetensors"
    with pytest.raises(SourceError) as caught:
        bring(tmp_path, source, "model.safetensors")
    page = f"{constants.ENDPOINT}/owner/gated"
    assert str(caught.value) == f"{source}: the repository is gated: {said.format(page=page)}"


@pytest.mark.usefixtures("small_hub")
def test_a_gated_repository_whose_terms_are_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_token(ACCEPTED_TOKEN, tmp_path, monkeypatch)
    brought = bring(tmp_path, "hf://owner/gated/vae/model.safetensors", "model.safetensors")
    assert "model.safetensors 300000" in brought


def test_no_hub_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_hub("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(SourceError, match="hf://owner/repo cannot be fetched"):
        bring(tmp_path, "hf://owner/repo")
