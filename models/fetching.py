"""Bringing a source's files to this machine: listed, downloaded, verified, pinned."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from models.bucket import Bucket
from models.hub import Hub
from models.local import local_files
from models.pins import Pin, PinError, Pins
from models.progress import Progress
from models.sources import (
    DEFAULT_STORAGE_BASE,
    Origin,
    Source,
    SourceError,
    SourceFile,
    parse_source,
)
from models.staging import store_root
from models.transfer import TransferOptions, crc32c_of, sha256_of

TRUSTED = "TRUSTED"
"""Begins the line that tells of files of which nothing says what they must be."""


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """Where downloads lie until they are in the store, and how they are made.

    `storage_base` is the public HTTPS form of the bucket, ending in its name. With
    `trusts_first_use`, a remote file that is pinned by nothing is taken as it is found, and pinned.
    """

    downloads: Path
    storage_base: str = DEFAULT_STORAGE_BASE
    trusts_first_use: bool = True
    transfer: TransferOptions = field(default_factory=TransferOptions)

    @classmethod
    def of(
        cls,
        downloads: Path | None,
        storage_base: str = DEFAULT_STORAGE_BASE,
        trusts_first_use: bool = True,
    ) -> FetchOptions:
        """By default downloads lie beside the store, on its disk."""
        folder = downloads or store_root().parent / "downloads"
        return cls(folder, storage_base, trusts_first_use)


class Fetcher:
    """The sources of one catalog. For one thread; the downloads of a file use several."""

    def __init__(
        self,
        folder: Path,
        pins: Pins,
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
        self._origins: dict[str, Origin] = {"gs": Bucket(options.transfer), "hf": Hub()}
        self._files: dict[str, dict[str, SourceFile]] = {}
        self._local_pins: dict[str, dict[str, Pin]] = {}

    def source(self, text: str) -> Source:
        """The parsed source; raises SourceError."""
        return parse_source(text, self._folder, self._options.storage_base)

    def files(self, text: str) -> Mapping[str, SourceFile]:
        """What the source holds, by name; asked once. Raises SourceError."""
        if text not in self._files:
            source = self.source(text)
            local = source.scheme == "file"
            found = local_files(source) if local else self._origins[source.scheme].files(source)
            self._files[text] = {file.name: file for file in found}
        return self._files[text]

    def names(self, text: str) -> list[str]:
        """The names of the source's files: as pinned where it is remote, without asking it."""
        remote = self.source(text).scheme != "file"
        return list(self._pins.of(text) if remote else self.files(text))

    def digests(self, text: str, names: Collection[str]) -> dict[str, str]:
        """SHA-256 by name: read from local files, taken from the pins of remote ones.

        Raises:
            PinError: a local file is not what the lock file says.
        """
        if self.source(text).scheme != "file":
            return {name: self._pins.of(text)[name].sha256 for name in names}
        known = self._local_pins.setdefault(text, {})
        for name in set(names) - set(known):
            known[name] = _pin_of(self._local_path(text, name))
            self._pins.enforce(text, name, known[name])
        return {name: known[name].sha256 for name in names}

    def size(self, text: str, name: str) -> int:
        """Bytes of one of the source's files."""
        return self.files(text)[name].size

    def missing_bytes(self, text: str, name: str) -> int:
        """What has still to be downloaded of a file, at most."""
        if self.source(text).scheme == "file" or (self._downloads(text) / name).is_file():
            return 0
        return self.size(text, name)

    def bring(self, text: str, names: Collection[str]) -> Path:
        """The folder that holds these files of the source, verified and pinned.

        Raises:
            SourceError: cannot be fetched, or is not what its origin says.
            PinError: is not what the lock file says.
        """
        source = self.source(text)
        if source.scheme == "file":
            self.digests(text, names)
            return self._local_path(text, "")
        folder = self._downloads(text)
        for name in sorted(names):
            if name not in self.files(text):
                raise SourceError(f"{text}: {name} does not exist there any more")
            self._bring_file(source, self.files(text)[name], folder / name)
        return folder

    def release(self, text: str) -> None:
        """Remove what was downloaded of a source."""
        shutil.rmtree(self._downloads(text), ignore_errors=True)

    def _bring_file(self, source: Source, file: SourceFile, target: Path) -> None:
        self._require_pin(source, file.name)
        self._pins.enforce_size(source.text, file.name, file.size)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_file() and not _matches(file, target):
            target.unlink()
        if target.is_file():
            self._progress.begin(source.address(file.name), file.size, file.size)
        else:
            self._origins[source.scheme].fetch(source, file, target, self._progress)
        found = _pin_of(target)
        if file.sha256 is not None and found.sha256 != file.sha256:
            target.unlink()
            raise SourceError(f"{source.text}: {file.name} does not match its published SHA-256")
        self._pins.enforce(source.text, file.name, found)

    def _require_pin(self, source: Source, name: str) -> None:
        """Refuse a file of which nothing says what it must be, or say that it is trusted."""
        if source.revision is not None or name in self._pins.of(source.text):
            return
        if not self._options.trusts_first_use:
            raise PinError(
                f"{source.text}: {name} is pinned by neither {self._pins.name} nor a commit, so "
                "that nothing tells whether it is the right one. Ship the lock file of an import "
                "with python -m models import, or set TRUST_FIRST_USE=1 to take what is found"
            )
        if source.text not in self._trusted:
            self._trusted.add(source.text)
            self._say(
                f"{TRUSTED}  {source.text}: nothing tells what its files must be; what is found "
                f"now is taken, and pinned in {self._pins.name}"
            )

    def _downloads(self, text: str) -> Path:
        return self._options.downloads / hashlib.sha256(text.encode()).hexdigest()[:16]

    def _local_path(self, text: str, name: str) -> Path:
        path = Path(self.source(text).path)
        return path / name if path.is_dir() else path.parent / name


def _pin_of(path: Path) -> Pin:
    return Pin(sha256_of(path), path.stat().st_size)


def _matches(file: SourceFile, path: Path) -> bool:
    """Whether what an earlier import downloaded is still what the origin holds."""
    if path.stat().st_size != file.size:
        return False
    return file.crc32c is None or crc32c_of(path) == file.crc32c
