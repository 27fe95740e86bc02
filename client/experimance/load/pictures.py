"""Where depth maps and photographs of requests come from."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experimance.load.misuse import Misuse, listed
from experimance.load.terrain import terrain_png

MOST = 256
"""Pictures that one scenario may hold in memory."""
_MOST_BYTES = 24 * 2**20
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
_SIDES = (16, 4096)
_SIZE = 256
_ACCEPTED = '{ files = ["a.png"] }, { folder = "maps" } or { terrain = 8, size = [512, 512] }'


def pictures_of(spec: Any, where: str, folder: Path, seed: int) -> tuple[str, ...]:
    """Base64 of each picture that a scenario chooses from.

    Args:
        spec: as the scenario file has it.
        where: what to name in a message.
        folder: what relative paths are relative to.
        seed: of the run, for procedural ones.

    Raises:
        Misuse: no such form, no such file.
    """
    if not isinstance(spec, Mapping):
        raise Misuse(where, f"{spec!r} is not accepted; use {_ACCEPTED}")
    match sorted(spec):
        case ["files"]:
            return _encoded(_files(spec["files"], where, folder), where)
        case ["folder"]:
            return _encoded(_of_folder(folder / str(spec["folder"]), where), where)
        case ["terrain"] | ["size", "terrain"]:
            count = _whole(spec["terrain"], f"{where}.terrain", 1, MOST)
            size = _size(spec.get("size", _SIZE), f"{where}.size")
            return tuple(_text(terrain_png(seed, number, size)) for number in range(count))
        case keys:
            raise Misuse(where, f"has the keys {listed(keys) or 'of nothing'}; use {_ACCEPTED}")


def _files(names: Any, where: str, folder: Path) -> list[Path]:
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise Misuse(f"{where}.files", f"{names!r} is not accepted; use a list of file names")
    return [folder / name for name in names]


def _of_folder(folder: Path, where: str) -> list[Path]:
    if not folder.is_dir():
        raise Misuse(f"{where}.folder", f"{folder} is no folder")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    if not found:
        raise Misuse(f"{where}.folder", f"{folder} has no pictures ({listed(_SUFFIXES)})")
    return found


def _encoded(paths: Sequence[Path], where: str) -> tuple[str, ...]:
    if len(paths) > MOST:
        raise Misuse(where, f"{len(paths)} pictures are too many; accepted: up to {MOST}")
    texts = []
    for path in paths:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise Misuse(where, f"{path} cannot be read: {error.strerror}") from None
        if len(content) > _MOST_BYTES:
            raise Misuse(where, f"{path} is too large; accepted: up to 24 MiB")
        texts.append(_text(content))
    return tuple(texts)


def _size(size: Any, where: str) -> tuple[int, int]:
    sides = size if isinstance(size, list) else [size, size]
    if len(sides) != 2:
        raise Misuse(where, f"{size!r} is not accepted; use 512 or [width, height]")
    width, height = (_whole(side, where, *_SIDES) for side in sides)
    return width, height


def _whole(value: Any, where: str, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise Misuse(where, f"{value!r} is not accepted; use a whole number from {low} to {high}")
    return value


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
