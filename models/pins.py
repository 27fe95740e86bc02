"""The lock file beside a catalog: what every source's files were when first imported."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

_READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}


class PinError(RuntimeError):
    """A file that is no longer what the lock file says, or a lock file that cannot be read."""


@dataclass(frozen=True, slots=True)
class Pin:
    """A file's SHA-256, hexadecimal, and its size in bytes."""

    sha256: str
    size: int


class Pins:
    """The digests of a catalog's sources, on disk as `<catalog>.lock.json`.

    Every change is on disk when the call returns, by way of a second file and a rename. A folder
    that cannot be written to, as in a container, leaves new pins in memory alone.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pins: dict[str, dict[str, Pin]] = {}
        try:
            content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            for source, files in content.items():
                self._pins[source] = {name: Pin(**pin) for name, pin in files.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise PinError(f"{path.name} is not a lock file: {error}") from error

    @classmethod
    def beside(cls, catalog_file: Path) -> Pins:
        """The pins of the catalog in that file."""
        return cls(catalog_file.with_suffix(".lock.json"))

    @property
    def name(self) -> str:
        """The lock file's."""
        return self._path.name

    def of(self, source: str) -> Mapping[str, Pin]:
        """The pinned files of a source, by name; empty when it was never imported."""
        return self._pins.get(source, {})

    def enforce(self, source: str, name: str, found: Pin) -> None:
        """Pin a file that is not pinned yet; refuse one that differs from its pin.

        Raises:
            PinError: names the file, both digests, and what to do.
        """
        pinned = self.of(source).get(name)
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
        """Refuse a file of another size than its pin's, before it is downloaded."""
        pinned = self.of(source).get(name)
        if pinned is not None and pinned.size != size:
            raise PinError(
                f"{source}: {name} has {size} bytes, but {self._path.name} has pinned "
                f"{pinned.size}. If the change is meant, import with --repin"
            )

    def forget(self) -> None:
        """Drop every pin: what is imported next is pinned anew."""
        self._pins.clear()

    def _save(self) -> None:
        content = {
            source: {name: asdict(pin) for name, pin in sorted(files.items())}
            for source, files in sorted(self._pins.items())
        }
        beside = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            beside.replace(self._path)
        except OSError as error:
            if error.errno in _READ_ONLY:
                return
            raise PinError(f"{self._path.name} cannot be written: {error.strerror}") from error
