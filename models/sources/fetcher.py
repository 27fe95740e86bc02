"""Listing, download, verification and pinning of a catalog's sources."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from models.sources.base import (
    DEFAULT_STORAGE_BASE,
    Source,
    SourceBackend,
    SourceError,
    SourceFile,
    parse_source,
)
from models.sources.gcs import GcsSource
from models.sources.huggingface import HubSource
from models.sources.local import local_files
from models.sources.lockfile import FileDigest, Lockfile, PinError
from models.sources.progress import Progress
from models.sources.range_download import TransferOptions, crc32c_of, sha256_of
from models.store.atomic_write import store_root

TRUSTED = "TRUSTED"
"""First word of the message about unpinned files that are accepted as found."""


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """Folder of unfinished imports' downloads, and transfer settings.

    `storage_base` is the public HTTPS URL of the bucket, ending in its name. With
    `trusts_first_use`, an unpinned remote file is accepted as found, and pinned.
    """

    downloads: Path
    storage_base: str = DEFAULT_STORAGE_BASE
    trusts_first_use: bool = True
    transfer: TransferOptions = field(default_factory=TransferOptions)

    @classmethod
    def with_defaults(
        cls,
        downloads: Path | None,
        storage_base: str = DEFAULT_STORAGE_BASE,
        trusts_first_use: bool = True,
    ) -> FetchOptions:
        """Return options with defaults filled in.

        Args:
            downloads: Download folder; None selects one beside the store, on the same disk.
            storage_base: Public HTTPS URL of the bucket, ending in the bucket's name.
            trusts_first_use: Whether unpinned remote files are accepted as found, and pinned.
        """
        folder = downloads or store_root().parent / "downloads"
        return cls(folder, storage_base, trusts_first_use)


class Fetcher:
    """Access to the sources of one catalog.

    Not thread-safe; the download of one file uses several threads internally.
    """

    def __init__(
        self,
        folder: Path,
        pins: Lockfile,
        options: FetchOptions,
        progress: Progress,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._say = say
        self._trusted: set[str] = set()
        self._folder = folder
        self._pins = pins
        self._options = options
        self._progress = progress
        self._backends: dict[str, SourceBackend] = {
            "gs": GcsSource(options.transfer),
            "hf": HubSource(),
        }
        self._files: dict[str, dict[str, SourceFile]] = {}
        self._local_pins: dict[str, dict[str, FileDigest]] = {}

    def source(self, text: str) -> Source:
        """Return the parsed source.

        Raises:
            SourceError: The URI is invalid.
        """
        return parse_source(text, self._folder, self._options.storage_base)

    def files(self, text: str) -> Mapping[str, SourceFile]:
        """Return the source's files by name; the result is cached.

        Raises:
            SourceError: The source is missing, empty or inaccessible.
        """
        if text not in self._files:
            source = self.source(text)
            local = source.scheme == "file"
            found = local_files(source) if local else self._backends[source.scheme].files(source)
            self._files[text] = {file.name: file for file in found}
        return self._files[text]

    def pinned_names(self, text: str) -> list[str]:
        """Return the source's file names; for a remote source the pinned ones, without network."""
        remote = self.source(text).scheme != "file"
        return list(self._pins.digests(text) if remote else self.files(text))

    def digests(self, text: str, names: Collection[str]) -> dict[str, str]:
        """Return SHA-256 by name: computed for local files, pinned for remote ones.

        Raises:
            PinError: A local file differs from the lock file.
        """
        if self.source(text).scheme != "file":
            return {name: self._pins.digests(text)[name].sha256 for name in names}
        known = self._local_pins.setdefault(text, {})
        for name in set(names) - set(known):
            known[name] = _pin_of(self._local_path(text, name))
            self._pins.verify_or_add(text, name, known[name])
        return {name: known[name].sha256 for name in names}

    def size(self, text: str, name: str) -> int:
        """Return the size in bytes of one of the source's files."""
        return self.files(text)[name].size

    def missing_bytes(self, text: str, name: str) -> int:
        """Return an upper bound of the bytes still to download for a file."""
        if self.source(text).scheme == "file" or (self._downloads(text) / name).is_file():
            return 0
        return self.size(text, name)

    def download(self, text: str, names: Collection[str]) -> Path:
        """Download, verify and pin files of the source, and return their folder.

        Raises:
            SourceError: A file cannot be fetched, or differs from its published checksum.
            PinError: A file differs from the lock file.
        """
        source = self.source(text)
        if source.scheme == "file":
            self.digests(text, names)
            return self._local_path(text, "")
        folder = self._downloads(text)
        for name in sorted(names):
            if name not in self.files(text):
                raise SourceError(f"{text}: {name} no longer exists there")
            self._download_file(source, self.files(text)[name], folder / name)
        return folder

    def discard_downloads(self, text: str) -> None:
        """Delete the downloads of a source."""
        shutil.rmtree(self._downloads(text), ignore_errors=True)

    def _download_file(self, source: Source, file: SourceFile, target: Path) -> None:
        self._require_pin(source, file.name)
        self._pins.enforce_size(source.uri, file.name, file.size)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_file() and not _matches(file, target):
            target.unlink()
        if target.is_file():
            self._progress.begin(source.url_of(file.name), file.size, file.size)
        else:
            self._backends[source.scheme].fetch(source, file, target, self._progress)
        found = _pin_of(target)
        if file.sha256 is not None and found.sha256 != file.sha256:
            target.unlink()
            raise SourceError(f"{source.uri}: {file.name} does not match its published SHA-256")
        self._pins.verify_or_add(source.uri, file.name, found)

    def _require_pin(self, source: Source, name: str) -> None:
        """Reject an unpinned file, or report that it is accepted on first use."""
        if source.revision is not None or name in self._pins.digests(source.uri):
            return
        if not self._options.trusts_first_use:
            raise PinError(
                f"{source.uri}: {name} is pinned by neither {self._pins.name} nor a commit, so it "
                "cannot be verified. Ship the lock file that python -m models import writes, or "
                "set TRUST_FIRST_USE=1 to accept files as found"
            )
        if source.uri not in self._trusted:
            self._trusted.add(source.uri)
            self._say(
                f"{TRUSTED}  {source.uri}: its files are not pinned; they are accepted as found "
                f"and pinned in {self._pins.name}"
            )

    def _downloads(self, text: str) -> Path:
        return self._options.downloads / hashlib.sha256(text.encode()).hexdigest()[:16]

    def _local_path(self, text: str, name: str) -> Path:
        path = Path(self.source(text).path)
        return path / name if path.is_dir() else path.parent / name


def _pin_of(path: Path) -> FileDigest:
    return FileDigest(sha256_of(path), path.stat().st_size)


def _matches(file: SourceFile, path: Path) -> bool:
    """Return whether an earlier download still equals the remote file."""
    if path.stat().st_size != file.size:
        return False
    return file.crc32c is None or crc32c_of(path) == file.crc32c
