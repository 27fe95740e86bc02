"""Source URIs, files of a source, and the interface of source backends."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import unquote, urlsplit

from models.catalog.schema import is_weight_file
from models.sources.progress import Progress


class SourceError(RuntimeError):
    """Unreadable source; the message names it and the reason."""


@dataclass(frozen=True, slots=True)
class Source:
    """A parsed source URI.

    `container` is a bucket (`gs`), a repository (`hf`) or empty (`file`). `path` is relative to
    the container, or a local path. `endpoint` is the bucket's HTTPS origin unless it is Google's.
    `revision` is the repository's commit if the URI names one.
    """

    uri: str
    scheme: Literal["file", "gs", "hf"]
    container: str
    path: str
    endpoint: str | None = None
    revision: str | None = None

    @property
    def is_file(self) -> bool:
        """Whether the source is one file rather than a folder."""
        if self.scheme == "file":
            return not Path(self.path).is_dir()
        return is_weight_file(self.path)

    def path_of(self, name: str) -> str:
        """Return the path of one of the source's files within the container."""
        return self.path if self.is_file else "/".join(filter(None, (self.path, name)))

    def url_of(self, name: str) -> str:
        """Return the URL of one of the source's files, for messages."""
        return f"{self.scheme}://{self.container}/{self.path_of(name)}"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of a source: its name within the source, and the backend's metadata.

    `size` is in bytes. `crc32c` is base64, as in Google's API. `sha256` is hexadecimal. `version`
    changes whenever the file is replaced.
    """

    name: str
    size: int
    crc32c: str | None = None
    sha256: str | None = None
    version: str | None = None


class SourceBackend(Protocol):
    """A backend that lists and downloads the files of remote sources."""

    def files(self, source: Source) -> list[SourceFile]:
        """Return the source's files; a single-file source has one.

        Raises:
            SourceError: The source is missing, empty or inaccessible.
        """

    def fetch(self, source: Source, file: SourceFile, target: Path, progress: Progress) -> None:
        """Download a complete file to `target`.

        Args:
            source: Source of the file.
            file: One of the source's files.
            target: Path of the result; its folder exists.
            progress: Receiver of the download's progress.

        Raises:
            SourceError: The download failed.
        """


GOOGLE_STORAGE = "https://storage.googleapis.com"
DEFAULT_STORAGE_BASE = f"{GOOGLE_STORAGE}/experimance_models/"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_REPOSITORY = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?:@([0-9a-f]{40}))?")


def parse_source(text: str, folder: Path, storage_base: str = DEFAULT_STORAGE_BASE) -> Source:
    """Parse `gs://bucket/path`, `hf://owner/repo[@commit][/path]`, `file:path`, or the https form.

    Args:
        text: Source as written in the catalog.
        folder: Base folder of relative `file:` sources.
        storage_base: Public HTTPS URL of the bucket, ending in the bucket's name.

    Raises:
        SourceError: The form is unknown, or the path points outside its folder.
    """
    scheme, _, rest = text.partition(":")
    if scheme == "file":
        return Source(text, "file", "", str((folder / rest.removeprefix("//")).resolve()))
    parts = [part for part in unquote(rest).split("/") if part]
    if ".." in parts or "." in parts or "\\" in rest or "\0" in unquote(rest):
        raise SourceError(f"{text}: a source cannot point outside its folder")
    if scheme == "https":
        return _public_form(text, storage_base)
    if scheme == "gs" and len(parts) >= 2 and _BUCKET.fullmatch(parts[0]):
        return Source(text, "gs", parts[0], "/".join(parts[1:]))
    if scheme == "hf" and (named := _REPOSITORY.fullmatch("/".join(parts[:2]))):
        return Source(text, "hf", named[1], "/".join(parts[2:]), revision=named[2])
    raise SourceError(
        f"{text}: not a source: expected gs://bucket/path, "
        "hf://owner/repository[@commit][/path] (a commit has 40 hexadecimal digits), file:path, "
        f"or a URL under {storage_base}"
    )


def check_name(source: Source, name: str) -> str:
    """Return the name if it stays inside its source's folder.

    Raises:
        SourceError: The name points outside the folder.
    """
    parts = name.split("/")
    if name.startswith("/") or "\\" in name or "\0" in name or {"", ".", ".."} & set(parts):
        raise SourceError(f"{source.uri}: the file name {name!r} points outside its folder")
    return name


def _public_form(text: str, storage_base: str) -> Source:
    base = storage_base if storage_base.endswith("/") else f"{storage_base}/"
    if not text.startswith(base):
        raise SourceError(f"{text}: https sources must lie under GOOGLE_STORAGE_BASE ({base})")
    address = urlsplit(text)
    bucket, _, path = unquote(address.path).strip("/").partition("/")
    endpoint = f"{address.scheme}://{address.netloc}"
    return Source(text, "gs", bucket, path, None if endpoint == GOOGLE_STORAGE else endpoint)
