"""Atomic writes to the Bento model store.

A model is built beside the store, synced to disk and renamed. BentoML's `models.create` instead
copies from the temporary folder file by file: a kill leaves a partial model under its final name,
and the temporary folder may be too small for 5 GB.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bentoml import Tag
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models.model import Model, ModelContext, ModelInfo, ModelOptions

_STAGING = ".staging"


def store_root() -> Path:
    """Return the folder of the active Bento model store."""
    return Path(BentoMLContainer.model_store_dir.get())


def staging_root() -> Path:
    """Return the folder for builds, on the store's disk so that a rename is atomic."""
    return store_root().parent / _STAGING


@contextmanager
def staging_dir() -> Iterator[Path]:
    """Create an empty folder on the store's disk, deleted when the block ends."""
    root = staging_root()
    root.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=root))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def clear_staging() -> None:
    """Delete the leftovers of killed imports; requires the import lock."""
    shutil.rmtree(staging_root(), ignore_errors=True)


def commit(folder: Path, tag: str, labels: Mapping[str, str], metadata: Mapping[str, str]) -> None:
    """Move a folder from `staging_dir` atomically into the store, as a Bento model.

    An existing model with the same tag is kept unchanged.

    Args:
        folder: Folder with the model's files.
        tag: Bento tag, `name:version`.
        labels: Labels of the model.
        metadata: Metadata of the model.
    """
    name, _, version = tag.partition(":")
    info = ModelInfo(
        tag=Tag(name, version),
        module="",
        labels=dict(labels),
        options=ModelOptions(),
        metadata=dict(metadata),
        context=ModelContext(framework_name="", framework_versions={}),
        signatures={},
        api_version="v1",
    )
    Model(info.tag, folder, info, internal=True).flush()
    for file in folder.rglob("*"):
        _fsync(file)
    _fsync(folder)
    target = store_root() / name / version
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        folder.rename(target)
        _fsync(target.parent)
    set_latest(tag)


def set_latest(tag: str) -> None:
    """Make `name:latest` refer to `tag`."""
    name, _, version = tag.partition(":")
    pointer = store_root() / name / "latest"
    partial = pointer.with_name(f".latest.{os.getpid()}")
    partial.write_text(version, encoding="ascii")
    partial.replace(pointer)


def delete(tag: str) -> int:
    """Remove a model atomically from the store and return the bytes freed."""
    name, _, version = tag.partition(":")
    source = store_root() / name / version
    size = sum(file.stat().st_size for file in source.rglob("*") if file.is_file())
    with staging_dir() as folder:
        source.rename(folder / "removed")
    family = store_root() / name
    remaining = sorted((path for path in family.iterdir() if path.is_dir()), key=_modification_time)
    if remaining:
        set_latest(f"{name}:{remaining[-1].name}")
    else:
        shutil.rmtree(family)
    return size


def _modification_time(path: Path) -> float:
    return path.stat().st_mtime


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
