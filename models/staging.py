"""Putting a folder into the Bento store at one stroke.

BentoML's own `models.create` builds in the temporary folder and copies into the store file by file:
a kill leaves half a model under its final name, and 5 GB may not fit where temporary files lie.
Here a model is built beside the store, made durable, and renamed.
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
    """The folder of the Bento model store in use."""
    return Path(BentoMLContainer.model_store.get()._path)


def staging_root() -> Path:
    """Where models are built: on the store's own disk, so that a rename moves them."""
    return store_root().parent / _STAGING


@contextmanager
def staging() -> Iterator[Path]:
    """An empty folder on the store's disk, gone with what is left in it when the block ends."""
    root = staging_root()
    root.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=root))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep_staging() -> None:
    """Remove what killed imports have left. For the holder of the import lock."""
    shutil.rmtree(staging_root(), ignore_errors=True)


def place(folder: Path, tag: str, labels: Mapping[str, str], metadata: Mapping[str, str]) -> None:
    """Make a folder from `staging` the Bento model `tag`: whole, or not at all.

    A model of that tag that is there already stays as it is.
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
        _sync(file)
    _sync(folder)
    target = store_root() / name / version
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        folder.rename(target)
        _sync(target.parent)
    set_latest(tag)


def set_latest(tag: str) -> None:
    """Make `tag` what `name:latest` means."""
    name, _, version = tag.partition(":")
    pointer = store_root() / name / "latest"
    beside = pointer.with_name(f".latest.{os.getpid()}")
    beside.write_text(version, encoding="ascii")
    beside.replace(pointer)


def remove(tag: str) -> int:
    """Take a model out of the store at one stroke; returns the bytes freed."""
    name, _, version = tag.partition(":")
    source = store_root() / name / version
    size = sum(file.stat().st_size for file in source.rglob("*") if file.is_file())
    with staging() as folder:
        source.rename(folder / "removed")
    family = store_root() / name
    left = sorted((path for path in family.iterdir() if path.is_dir()), key=_age)
    if left:
        set_latest(f"{name}:{left[-1].name}")
    else:
        shutil.rmtree(family)
    return size


def _age(path: Path) -> float:
    return path.stat().st_mtime


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
