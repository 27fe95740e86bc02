"""A depth file that another program writes again and again."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

from PIL import Image

# Those that the service reads.
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF")

_Signature = tuple[int, int, int]


class DepthFile:
    """Tells when there is a new depth map in a file.

    The writer may write in place, in pieces, or rename another file over it; it may remove the
    file for a while. Nothing of that reaches who asks here: only whole pictures do, and only those
    that differ from the one before.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: _Signature | None = None
        self._digest = b""
        self.damaged = False
        """Whether what lies there now is no whole picture."""

    def changed(self) -> bytes | None:
        """The new file, None while there is none.

        Raises:
            OSError: it is there and cannot be read.
        """
        try:
            before = self._signature()
            if before == self._seen:
                return None
            content = self._path.read_bytes()
            if self._signature() != before:
                return None
        except FileNotFoundError:
            return None
        self.damaged = not _is_whole(content)
        if self.damaged:
            return None
        self._seen = before
        digest = hashlib.sha256(content).digest()
        is_new, self._digest = digest != self._digest, digest
        return content if is_new else None

    def _signature(self) -> _Signature:
        told = self._path.stat()
        return told.st_mtime_ns, told.st_size, told.st_ino


def _is_whole(content: bytes) -> bool:
    try:
        Image.open(io.BytesIO(content), formats=_FORMATS).load()
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
        return False
    return True
