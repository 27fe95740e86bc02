"""Change detection for a depth file that another program keeps rewriting."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

from PIL import Image

# The formats that the service decodes.
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF")

_Signature = tuple[int, int, int]


class DepthFile:
    """A watched depth file.

    Only complete images that differ from the previous one are reported. The writer may write in
    place, in pieces or by rename, and may remove the file temporarily.

    Attributes:
        damaged: Whether the file's current content is not a complete image.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last_signature: _Signature | None = None
        self._last_digest = b""
        self.damaged = False

    def read_if_changed(self) -> bytes | None:
        """Return the content of a new complete image, or None without one.

        Raises:
            OSError: The file exists and cannot be read.
        """
        try:
            before = self._signature()
            if before == self._last_signature:
                return None
            content = self._path.read_bytes()
            if self._signature() != before:
                return None
        except FileNotFoundError:
            return None
        self.damaged = not _is_complete_image(content)
        if self.damaged:
            return None
        self._last_signature = before
        digest = hashlib.sha256(content).digest()
        is_new, self._last_digest = digest != self._last_digest, digest
        return content if is_new else None

    def _signature(self) -> _Signature:
        status = self._path.stat()
        return status.st_mtime_ns, status.st_size, status.st_ino


def _is_complete_image(content: bytes) -> bool:
    try:
        Image.open(io.BytesIO(content), formats=_FORMATS).load()
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
        return False
    return True
