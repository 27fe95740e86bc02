"""Files on this machine as a source: read where they are, never copied before conversion."""

from __future__ import annotations

from pathlib import Path

from models.sources import Source, SourceError, SourceFile


def local_files(source: Source) -> list[SourceFile]:
    """The file, or the folder's files.

    Raises:
        SourceError: absent, or a link leads outside the folder.
    """
    path = Path(source.path)
    if path.is_file():
        return [SourceFile(path.name, path.stat().st_size)]
    if not path.is_dir():
        raise SourceError(f"{source.text} does not exist")
    found = []
    for file in sorted(path.rglob("*")):
        if file.is_symlink() and not file.resolve().is_relative_to(path):
            raise SourceError(f"{source.text}: {file.relative_to(path)} leads outside its folder")
        if file.is_file():
            found.append(SourceFile(file.relative_to(path).as_posix(), file.stat().st_size))
    return found
