"""Local file sources; files are read in place, without a copy before conversion."""

from __future__ import annotations

from pathlib import Path

from models.sources.base import Source, SourceError, SourceFile


def local_files(source: Source) -> list[SourceFile]:
    """Return the file, or the folder's files.

    Raises:
        SourceError: The path does not exist, or a symbolic link points outside the folder.
    """
    path = Path(source.path)
    if path.is_file():
        return [SourceFile(path.name, path.stat().st_size)]
    if not path.is_dir():
        raise SourceError(f"{source.uri} does not exist")
    found = []
    for file in sorted(path.rglob("*")):
        if file.is_symlink() and not file.resolve().is_relative_to(path):
            raise SourceError(f"{source.uri}: {file.relative_to(path)} points outside its folder")
        if file.is_file():
            found.append(SourceFile(file.relative_to(path).as_posix(), file.stat().st_size))
    return found
