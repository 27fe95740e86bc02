"""Lock file of a catalog: digests of every source's files at their first import."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

_READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}


class PinError(RuntimeError):
    """File that differs from the lock file, or an unreadable or unwritable lock file."""


@dataclass(frozen=True, slots=True)
class FileDigest:
    """SHA-256 (hexadecimal) and size (bytes) of a file."""

    sha256: str
    size: int


class Lockfile:
    """Digests of a catalog's sources, stored as `<catalog>.lock.json`.

    Every new pin is written atomically before the call returns. In a read-only folder, as in a
    container, new pins stay in memory.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pins: dict[str, dict[str, FileDigest]] = {}
        try:
            content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            for source, files in content.items():
                self._pins[source] = {name: FileDigest(**pin) for name, pin in files.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise PinError(f"{path.name} is not a lock file: {error}") from error

    @classmethod
    def for_catalog(cls, catalog_file: Path) -> Lockfile:
        """Return the lock file of the catalog at `catalog_file`."""
        return cls(catalog_file.with_suffix(".lock.json"))

    @property
    def name(self) -> str:
        """File name of the lock file."""
        return self._path.name

    def digests(self, source: str) -> Mapping[str, FileDigest]:
        """Return the pinned files of a source by name; empty if it was never imported."""
        return self._pins.get(source, {})

    def verify_or_add(self, source: str, name: str, found: FileDigest) -> None:
        """Pin an unpinned file, or compare it with its pin.

        Args:
            source: URI of the source.
            name: File name within the source.
            found: Digest of the file at hand.

        Raises:
            PinError: The file differs from its pin; the message has both digests and the remedy.
        """
        pinned = self.digests(source).get(name)
        if pinned is None:
            self._pins.setdefault(source, {})[name] = found
            self._save()
        elif pinned != found:
            raise PinError(
                f"{source}: {name} is not what {self._path.name} has pinned (SHA-256 "
                f"{pinned.sha256[:12]}…, {pinned.size} bytes; found {found.sha256[:12]}…, "
                f"{found.size} bytes). If the change is meant, import with --repin"
            )

    def enforce_size(self, source: str, name: str, size: int) -> None:
        """Check a file's size against its pin before the download.

        Args:
            source: URI of the source.
            name: File name within the source.
            size: Size in bytes that the backend reports.

        Raises:
            PinError: The sizes differ.
        """
        pinned = self.digests(source).get(name)
        if pinned is not None and pinned.size != size:
            raise PinError(
                f"{source}: {name} has {size} bytes, but {self._path.name} has pinned "
                f"{pinned.size}. If the change is meant, import with --repin"
            )

    def clear(self) -> None:
        """Remove every pin from memory; the next imports pin their files again."""
        self._pins.clear()

    def _save(self) -> None:
        content = {
            source: {name: asdict(pin) for name, pin in sorted(files.items())}
            for source, files in sorted(self._pins.items())
        }
        partial = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            partial.replace(self._path)
        except OSError as error:
            if error.errno in _READ_ONLY:
                return
            raise PinError(f"{self._path.name} cannot be written: {error.strerror}") from error
