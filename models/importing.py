"""Importing: from a catalog's sources into the Bento model store."""

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
from models.components import Part, parts_of, select
from models.fetching import Fetcher, FetchOptions
from models.making import make_components
from models.pins import PinError, Pins
from models.progress import Progress
from models.safetensors_file import WeightsError
from models.sources import SourceError
from models.staging import remove, staging, store_root, sweep_staging
from models.store import (
    SECTIONS,
    Section,
    StoreError,
    damaged,
    get_entry,
    inventory,
    put_component,
    put_entry,
)

_LAYOUT = 1
"""Raised when conversion changes what it writes, so that what is there is converted again."""

Say = Callable[[str], None]


class ImportingError(RuntimeError):
    """An import that cannot be done; the message names the entry and says why."""


@dataclass(frozen=True, slots=True)
class _Order:
    """An entry to import."""

    section: Section
    name: str
    parts: tuple[Part, ...]

    @property
    def label(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def sources(self) -> frozenset[str]:
        return frozenset(part.source for part in self.parts)


_Chosen = Mapping[str, list[str]]
"""The names of a part's files in its source, by kind."""


def import_catalog(
    catalog: Catalog,
    options: FetchOptions | None = None,
    progress: Progress | None = None,
    say: Say = lambda text: None,
    *,
    repin: bool = False,
    verify: bool = False,
) -> int:
    """Bring every entry of the catalog into the store; returns how many were new.

    What is there is not fetched again. A second import waits for the first. A kill leaves the
    store whole, and what was downloaded is used by the next call.

    Args:
        catalog: what to import.
        options: where downloads lie and how they are made; by default beside the store.
        progress: hears how far each download is.
        say: hears a line per entry.
        repin: accept sources that changed, and pin what they are now.
        verify: read what is in the store, and import again what is damaged.

    Raises:
        ImportingError: a source is absent, refused, changed, incomplete, or of a kind that is not
            read; or the disk is too small. The message names the entry.
    """
    options = options or FetchOptions.of(None)
    progress = progress or Progress()
    options.downloads.mkdir(parents=True, exist_ok=True)
    with import_lock(say):
        sweep_staging()
        if verify:
            for component in list(damaged(inventory(catalog))):
                say(f"damaged  {component.tag}")
                remove(component.tag)
        with _named(f"catalog {catalog.name}"):
            pins = Pins.beside(catalog.file)
        if repin:
            pins.forget()
        fetcher = Fetcher(catalog.folder, pins, options, progress, say)
        return _Importer(catalog, fetcher, options, progress, say).run()


@contextmanager
def import_lock(say: Say) -> Iterator[None]:
    """One change of the store at a time; the system takes the lock back from a killed holder."""
    lock = FileLock(store_root().parent / ".import.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("another import is under way; waiting for it")
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
        say: Say,
    ) -> None:
        self._catalog = catalog
        self._fetcher = fetcher
        self._options = options
        self._progress = progress
        self._say = say

    def run(self) -> int:
        todo = []
        for order in self._orders():
            with _named(order.label):
                tag = self._present(order)
            if tag is None:
                todo.append(order)
            else:
                self._say(f"present  {tag}")
        chosen = {}
        for order in todo:
            with _named(order.label):
                chosen[order.label] = self._choose(order, self._fetcher.files)
        self._check_room(todo, chosen)
        uses = Counter(source for order in todo for source in order.sources)
        for order in todo:
            with _named(order.label):
                tag = self._import(order, chosen[order.label])
            self._say(f"imported {tag}")
            for source in order.sources:
                uses[source] -= 1
                if not uses[source]:
                    self._fetcher.release(source)
        return len(todo)

    def _orders(self) -> Iterator[_Order]:
        for section in SECTIONS:
            for name in getattr(self._catalog, section):
                yield _Order(section, name, tuple(parts_of(self._catalog, section, name)))

    def _present(self, order: _Order) -> str | None:
        """The entry's tag, if the store has it made from what its sources are or are pinned as."""
        entry = get_entry(self._catalog, order.section, order.name)
        if entry is None or not all(map(self._fetcher.names, order.sources)):
            return None
        try:
            chosen = self._choose(order, self._fetcher.names)
        except SourceError:
            # What is pinned does not suffice for the catalog as it is now.
            return None
        return entry.tag if entry.recipe == self._recipe(order, chosen) else None

    def _choose(self, order: _Order, names: Callable[[str], Iterable[str]]) -> _Chosen:
        dtype = self._catalog.dtype
        return {part.kind: select(part, names(part.source), dtype) for part in order.parts}

    def _recipe(self, order: _Order, chosen: _Chosen) -> dict[str, Any]:
        """What the entry is made from: when that changes, it is made again."""
        digests = {
            part.kind: self._fetcher.digests(part.source, chosen[part.kind]) for part in order.parts
        }
        return {"layout": _LAYOUT, "dtype": self._catalog.dtype, "parts": digests}

    def _check_room(self, todo: list[_Order], chosen: Mapping[str, _Chosen]) -> None:
        """Refuse to start what the disks cannot hold: all that is new, and the downloads."""
        new: dict[tuple[str, str], int] = {}
        downloads = [0]
        for order in todo:
            files = {
                (part.source, name)
                for part in order.parts
                for name in chosen[order.label][part.kind]
            }
            new |= {(source, name): self._fetcher.size(source, name) for source, name in files}
            downloads.append(sum(self._fetcher.missing_bytes(*file) for file in files))
        store, folder = store_root(), self._options.downloads
        if store.stat().st_dev == folder.stat().st_dev:
            _require_room("BENTOML_HOME", store, sum(new.values()) + max(downloads))
        else:
            _require_room("BENTOML_HOME", store, sum(new.values()))
            _require_room("MODELS_DIR", folder, max(downloads))

    def _import(self, order: _Order, chosen: _Chosen) -> str:
        spec = getattr(self._catalog, order.section)[order.name]
        files = {}
        for part in order.parts:
            folder = self._fetcher.bring(part.source, chosen[part.kind])
            files[part.kind] = [folder / name for name in chosen[part.kind]]
        self._progress.mark_all("verifying", "converting")
        tags = {}
        with staging() as work:
            made = make_components(order.parts, files, work, self._catalog.dtype)
            for part in order.parts:
                tags[part.kind] = put_component(
                    part.kind, made[part.kind], self._catalog.name, part.source, spec.licence
                )
        self._progress.mark_all("converting", "done")
        recipe = self._recipe(order, chosen)
        return put_entry(self._catalog, order.section, order.name, tags, recipe)


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Errors of what is done meanwhile as ImportingErrors with its name."""
    try:
        yield
    except (SourceError, PinError, StoreError, WeightsError) as error:
        raise ImportingError(f"{what}: {error}") from error
    except OSError as error:
        raise ImportingError(f"{what}: {error.strerror or type(error).__name__}") from error


def _require_room(setting: str, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ImportingError(
            f"the disk of {setting} is too full: the import needs {needed / 1e9:.1f} GB and "
            f"{free / 1e9:.1f} GB are free. Nothing was downloaded"
        )
