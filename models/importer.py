"""Import of a catalog's weights from their sources into the Bento model store."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from models.catalog import Catalog
from models.catalog.scheduler import SILENT, Prediction, find_contradiction
from models.catalog.schema import SECTIONS, Section
from models.conversion.components import (
    SCHEDULER_CONFIG,
    ComponentSpec,
    build_components,
    component_specs,
    select_files,
)
from models.conversion.config import CONFIG_NAME, check_variant, read_json
from models.conversion.finite import require_finite
from models.conversion.safetensors_io import WeightsError
from models.conversion.single_file.prediction import read_prediction
from models.lora.check import check_adapter
from models.sources.base import SourceError
from models.sources.fetcher import Fetcher, FetchOptions
from models.sources.lockfile import Lockfile, PinError
from models.sources.progress import Progress
from models.store.atomic_write import clear_staging, delete, staging_dir, store_root
from models.store.inventory import find_corrupt, inventory
from models.store.store import CatalogEntry, StoreError, get_entry, put_component, put_entry

_LAYOUT = 2
"""Version of the conversion's output; increment it to convert existing entries again."""

Printer = Callable[[str], None]


class ImportingError(RuntimeError):
    """Import failure; the message names the entry and the reason."""


@dataclass(frozen=True, slots=True)
class _ImportTask:
    """One entry to import, with its components."""

    section: Section
    name: str
    parts: tuple[ComponentSpec, ...]

    @property
    def label(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def stored_parts(self) -> tuple[ComponentSpec, ...]:
        return tuple(part for part in self.parts if part.is_stored)

    @property
    def sources(self) -> frozenset[str]:
        return frozenset(part.source for part in self.parts)


_FilesByKind = Mapping[str, list[str]]
"""File names within the source, by component kind."""


def import_catalog(
    catalog: Catalog,
    options: FetchOptions | None = None,
    progress: Progress | None = None,
    say: Printer = lambda text: None,
    *,
    repin: bool = False,
    verify: bool = False,
) -> int:
    """Import every entry of the catalog into the store.

    The import is idempotent: entries in the store are not fetched again. A lock serialises
    concurrent imports. After a kill the store is intact, and the next call resumes the downloads.

    Args:
        catalog: Catalog to import.
        options: Download folder and transfer settings; by default a folder beside the store.
        progress: Receiver of each download's progress.
        say: Receiver of one line of text per entry.
        repin: Accept changed sources and replace their pins.
        verify: Check the digests of stored components, and import corrupt ones again.

    Returns:
        The number of imported entries.

    Raises:
        ImportingError: A source is missing, inaccessible, changed, incomplete or of an
            unsupported kind, or the disk is too small. The message names the entry.
    """
    options = options or FetchOptions.with_defaults(None)
    progress = progress or Progress()
    options.downloads.mkdir(parents=True, exist_ok=True)
    with import_lock(say):
        clear_staging()
        if verify:
            for component in list(find_corrupt(inventory(catalog))):
                say(f"damaged  {component.tag}")
                delete(component.tag)
        with _wrap_errors(f"catalog {catalog.name}"):
            pins = Lockfile.for_catalog(catalog.file)
        if repin:
            pins.clear()
        fetcher = Fetcher(catalog.folder, pins, options, progress, say)
        return _Importer(catalog, fetcher, options, progress, say).run()


@contextmanager
def import_lock(say: Printer) -> Iterator[None]:
    """Hold the store's exclusive lock; the operating system releases it if the holder is killed."""
    lock = FileLock(store_root().parent / ".import.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("another import is in progress; waiting for it to finish")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


class _Importer:
    def __init__(
        self,
        catalog: Catalog,
        fetcher: Fetcher,
        options: FetchOptions,
        progress: Progress,
        say: Printer,
    ) -> None:
        self._catalog = catalog
        self._fetcher = fetcher
        self._options = options
        self._progress = progress
        self._say = say

    def run(self) -> int:
        todo = []
        for task in self._tasks():
            with _wrap_errors(task.label):
                tag = self._find_imported(task)
            if tag is None:
                todo.append(task)
            else:
                self._say(f"present  {tag}")
        chosen = {}
        for task in todo:
            with _wrap_errors(task.label):
                chosen[task.label] = self._select(task, self._fetcher.files)
        self._check_disk_space(todo, chosen)
        uses = Counter(source for task in todo for source in task.sources)
        for task in todo:
            with _wrap_errors(task.label):
                tag = self._import(task, chosen[task.label])
            self._say(f"imported {tag}")
            for source in task.sources:
                uses[source] -= 1
                if not uses[source]:
                    self._fetcher.discard_downloads(source)
        return len(todo)

    def _tasks(self) -> Iterator[_ImportTask]:
        for section in SECTIONS:
            for name in getattr(self._catalog, section):
                yield _ImportTask(
                    section, name, tuple(component_specs(self._catalog, section, name))
                )

    def _find_imported(self, task: _ImportTask) -> str | None:
        """Return the entry's tag if the store holds it and its recipe is current, else None."""
        entry = get_entry(self._catalog, task.section, task.name)
        if entry is None or not all(map(self._fetcher.pinned_names, task.sources)):
            return None
        try:
            chosen = self._select(task, self._fetcher.pinned_names)
        except SourceError:
            # The catalog now needs files that are not pinned.
            return None
        if entry.recipe != self._recipe(task, chosen):
            return None
        self._check_prediction(task, entry.prediction)
        return entry.tag

    def _check_prediction(self, task: _ImportTask, stated: Prediction) -> None:
        """Raise WeightsError if the catalog contradicts what a variant's weights state."""
        if task.section == "models":
            problem = find_contradiction(self._catalog.models[task.name].scheduler, stated)
            if problem is not None:
                raise WeightsError(problem)

    def _select(self, task: _ImportTask, names: Callable[[str], Iterable[str]]) -> _FilesByKind:
        dtype = self._catalog.dtype
        return {part.kind: select_files(part, names(part.source), dtype) for part in task.parts}

    def _recipe(self, task: _ImportTask, chosen: _FilesByKind) -> dict[str, Any]:
        """Return the inputs of the conversion; a changed recipe triggers a new import."""
        digests = {
            part.kind: self._fetcher.digests(part.source, chosen[part.kind]) for part in task.parts
        }
        return {"layout": _LAYOUT, "dtype": self._catalog.dtype, "parts": digests}

    def _check_disk_space(
        self, todo: list[_ImportTask], chosen: Mapping[str, _FilesByKind]
    ) -> None:
        """Raise ImportingError if the disks cannot hold the new entries and the downloads."""
        new: dict[tuple[str, str], int] = {}
        downloads = [0]
        for task in todo:
            files = {
                (part.source, name) for part in task.parts for name in chosen[task.label][part.kind]
            }
            new |= {(source, name): self._fetcher.size(source, name) for source, name in files}
            downloads.append(sum(self._fetcher.missing_bytes(*file) for file in files))
        store, folder = store_root(), self._options.downloads
        if store.stat().st_dev == folder.stat().st_dev:
            _require_free_space("BENTOML_HOME", store, sum(new.values()) + max(downloads))
        else:
            _require_free_space("BENTOML_HOME", store, sum(new.values()))
            _require_free_space("MODELS_DIR", folder, max(downloads))

    def _import(self, task: _ImportTask, chosen: _FilesByKind) -> str:
        spec = getattr(self._catalog, task.section)[task.name]
        files = {}
        for part in task.parts:
            folder = self._fetcher.download(part.source, chosen[part.kind])
            files[part.kind] = [folder / name for name in chosen[part.kind]]
        self._progress.mark_all("verifying", "converting")
        notes: list[str] = []
        prediction = SILENT
        if task.section == "models":
            prediction = read_prediction(
                files["unet"], next(iter(files.get(SCHEDULER_CONFIG, ())), None)
            )
            self._check_prediction(task, prediction)
        if task.section == "loras":
            (file,) = files["lora"]
            require_finite(file)
            notes = check_adapter(file, self._variants())
            for note in notes:
                self._say(f"note     {task.label}: {note}")
        tags = {}
        with staging_dir() as work:
            folders = build_components(task.parts, files, work, self._catalog.dtype)
            if task.section == "models":
                check_variant(_read_configs(folders))
            for part in task.stored_parts:
                tags[part.kind] = put_component(
                    part.kind, folders[part.kind], self._catalog.name, part.source, spec.licence
                )
        self._progress.mark_all("converting", "done")
        recipe = self._recipe(task, chosen)
        entry = (self._catalog, task.section, task.name)
        return put_entry(*entry, tags, recipe, notes, prediction)

    def _variants(self) -> list[CatalogEntry]:
        """Return the catalog's variants that are in the store."""
        found = (get_entry(self._catalog, "models", name) for name in self._catalog.models)
        return [entry for entry in found if entry is not None]


def _read_configs(folders: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Return the configuration of each network, by kind."""
    return {
        kind: read_json(kind, folder / CONFIG_NAME)
        for kind, folder in folders.items()
        if (folder / CONFIG_NAME).is_file()
    }


@contextmanager
def _wrap_errors(subject: str) -> Iterator[None]:
    """Convert the block's errors to ImportingErrors that name `subject`."""
    try:
        yield
    except (SourceError, PinError, StoreError, WeightsError) as error:
        raise ImportingError(f"{subject}: {error}") from error
    except OSError as error:
        raise ImportingError(f"{subject}: {error.strerror or type(error).__name__}") from error


def _require_free_space(setting: str, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ImportingError(
            f"the disk of {setting} is too full: the import needs {needed / 1e9:.1f} GB and "
            f"{free / 1e9:.1f} GB are free. Nothing was downloaded"
        )
