"""Where weights may come from: the four forms of a source, and what a source's files are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import unquote, urlsplit

from models.progress import Progress


class SourceError(RuntimeError):
    """A source that cannot be read; the message names it and says why."""


@dataclass(frozen=True, slots=True)
class Source:
    """A parsed source.

    `root` is a bucket (`gs`), a repository (`hf`) or nothing (`file`); `path` lies within it, or
    is the local path. `endpoint` is the host of a bucket's public HTTPS form, if not the usual;
    `revision` the commit of a repository, if the source names one.
    """

    text: str
    scheme: Literal["file", "gs", "hf"]
    root: str
    path: str
    endpoint: str | None = None
    revision: str | None = None

    @property
    def is_file(self) -> bool:
        """Whether it names one file rather than a folder."""
        if self.scheme == "file":
            return not Path(self.path).is_dir()
        return bool(Path(self.path).suffix in FILE_SUFFIXES)

    def path_of(self, name: str) -> str:
        """The path within the root of one of the source's files."""
        return self.path if self.is_file else "/".join(filter(None, (self.path, name)))

    def address(self, name: str) -> str:
        """How messages call one of the source's files."""
        return f"{self.scheme}://{self.root}/{self.path_of(name)}"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of a source: its name within the source, and what the other side says of it.

    `crc32c` is base64 as Google's API gives it; `version` tells whether it was replaced.
    """

    name: str
    size: int
    crc32c: str | None = None
    sha256: str | None = None
    version: str | None = None


class Origin(Protocol):
    """One kind of place from which files come."""

    def files(self, source: Source) -> list[SourceFile]:
        """The source's files; for a source that is a file, that one. Raises SourceError."""

    def fetch(self, source: Source, file: SourceFile, target: Path, progress: Progress) -> None:
        """Bring a file to `target`, whole. Raises SourceError."""


PICKLE_SUFFIXES = frozenset({".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle"})
FILE_SUFFIXES = PICKLE_SUFFIXES | {".safetensors"}
GOOGLE_STORAGE = "https://storage.googleapis.com"
DEFAULT_STORAGE_BASE = f"{GOOGLE_STORAGE}/experimance_models/"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_REPOSITORY = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?:@([0-9a-f]{40}))?")


def parse_source(text: str, folder: Path, storage_base: str = DEFAULT_STORAGE_BASE) -> Source:
    """Parse `gs://bucket/path`, `hf://owner/repo[@commit][/path]`, `file:path`, or the https form.

    Args:
        text: as the catalog has it.
        folder: where relative `file:` sources start.
        storage_base: the public HTTPS form of the bucket, ending in its name.

    Raises:
        SourceError: another form, or a path that leaves its folder.
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
        f"{text}: not a source: give gs://bucket/path, hf://owner/repository[@commit][/path] (a "
        f"commit has 40 digits), file:path, or an address under {storage_base}"
    )


def check_name(source: Source, name: str) -> str:
    """The name, if it stays inside its source's folder; SourceError otherwise."""
    parts = name.split("/")
    if name.startswith("/") or "\\" in name or "\0" in name or {"", ".", ".."} & set(parts):
        raise SourceError(f"{source.text}: the file name {name!r} leads outside its folder")
    return name


def _public_form(text: str, storage_base: str) -> Source:
    base = storage_base if storage_base.endswith("/") else f"{storage_base}/"
    if not text.startswith(base):
        raise SourceError(f"{text}: https sources must lie under GOOGLE_STORAGE_BASE ({base})")
    address = urlsplit(text)
    bucket, _, path = unquote(address.path).strip("/").partition("/")
    endpoint = f"{address.scheme}://{address.netloc}"
    return Source(text, "gs", bucket, path, None if endpoint == GOOGLE_STORAGE else endpoint)
