"""Import of a catalog's weights from their sources into the Bento model store."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from models.catalog import Catalog
from models.catalog.schema import SECTIONS, Section
from models.conversion.components import (
    ComponentSpec,
    build_components,
    component_specs,
    select_files,
)
from models.conversion.config import CONFIG_NAME
from models.conversion.controlnet_config import check_fit
from models.conversion.finite import require_finite
from models.conversion.safetensors_io import WeightsError
from models.lora.check import check_adapter
from models.sources.base import SourceError
from models.sources.fetcher import Fetcher, FetchOptions
from models.sources.lockfile import Lockfile, PinError
from models.sources.progress import Progress
from models.store.atomic_write import clear_staging, delete, staging_dir, store_root
from models.store.inventory import find_corrupt, inventory
from models.store.store import (
    CatalogEntry,
    Component,
    StoreError,
    get_entry,
    put_component,
    put_entry,
)

_LAYOUT = 1
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
    def sources(self) -> frozenset[str]:
        bases = {part.base for part in self.parts if part.base is not None}
        return frozenset(part.source for part in self.parts) | bases


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
        todo, present = [], []
        for task in self._tasks():
            with _wrap_errors(task.label):
                tag = self._find_imported(task)
            if tag is None:
                todo.append(task)
            else:
                present.append(task)
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
        self._check_stored_controlnets(present)
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
        return entry.tag if entry.recipe == self._recipe(task, chosen) else None

    def _select(self, task: _ImportTask, names: Callable[[str], Iterable[str]]) -> _FilesByKind:
        dtype = self._catalog.dtype
        chosen = {part.kind: select_files(part, names(part.source), dtype) for part in task.parts}
        for part in task.parts:
            if part.base is not None and part.config_name in names(part.base):
                chosen[part.config_name] = [part.config_name]
        return chosen

    def _recipe(self, task: _ImportTask, chosen: _FilesByKind) -> dict[str, Any]:
        """Return the inputs of the conversion; a changed recipe triggers a new import."""
        digests = {
            part.kind: self._fetcher.digests(part.source, chosen[part.kind]) for part in task.parts
        }
        for part in task.parts:
            if part.base is not None and part.config_name in chosen:
                names = chosen[part.config_name]
                digests[part.config_name] = self._fetcher.digests(part.base, names)
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
            if part.base is not None and part.config_name in chosen:
                folder = self._fetcher.download(part.base, chosen[part.config_name])
                files[part.config_name] = [folder / part.config_name]
        self._progress.mark_all("verifying", "converting")
        notes: list[str] = []
        if task.section == "loras":
            (file,) = files["lora"]
            require_finite(file)
            notes = check_adapter(file, self._variants())
            for note in notes:
                self._say(f"note     {task.label}: {note}")
        tags = {}
        with staging_dir() as work:
            unets = self._unets() if task.section == "controlnets" else None
            folders = build_components(task.parts, files, work, self._catalog.dtype, unets)
            for part in task.parts:
                tags[part.kind] = put_component(
                    part.kind, folders[part.kind], self._catalog.name, part.source, spec.licence
                )
        self._progress.mark_all("converting", "done")
        recipe = self._recipe(task, chosen)
        return put_entry(self._catalog, task.section, task.name, tags, recipe, notes)

    def _check_stored_controlnets(self, tasks: Iterable[_ImportTask]) -> None:
        """Raise ImportingError if a ControlNet that was in the store does not fit a new variant."""
        unets = self._unets()
        for task in tasks:
            entry = get_entry(self._catalog, task.section, task.name)
            if task.section == "controlnets" and entry is not None:
                with _wrap_errors(task.label):
                    check_fit(_read_config(entry.components["controlnet"]), unets)

    def _unets(self) -> dict[str, Any]:
        """Return the configurations of the variants' UNets, by a label of the variant."""
        return {
            f"model {variant.name}": _read_config(variant.components["unet"])
            for variant in self._variants()
        }

    def _variants(self) -> list[CatalogEntry]:
        """Return the catalog's variants that are in the store."""
        found = (get_entry(self._catalog, "models", name) for name in self._catalog.models)
        return [entry for entry in found if entry is not None]


def _read_config(component: Component) -> Any:
    return json.loads((component.path / CONFIG_NAME).read_text(encoding="utf-8"))


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
