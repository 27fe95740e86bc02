"""Trial of kinds of weight files: the real import, and the entry applied by the runner's code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.support.weights.kind import Kind, WrittenKind
from models.catalog import Catalog, load_catalog
from models.catalog.schema import Section
from models.importer import ImportingError, import_catalog
from models.store.store import CatalogEntry, get_entry
from testing.imports import store_at
from testing.workbench import WEIGHTS

MAX_ERROR = 1e-3
"""Largest accepted error of a result, relative to the right effect."""

_BASE = f"""
name = "kinds"
default_model = "base"
default_controlnet = "sdxl_small"

[models.base]
source = "file:{WEIGHTS}"
licence = "none"
native_size = 256
steps = 4
cfg = 1.0
scheduler = {{ class = "EulerDiscreteScheduler" }}

[controlnets.sdxl_small]
source = "file:{WEIGHTS / "controlnet"}"
licence = "none"
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Result of a kind.

    `found` is its outcome, or a failure: `silent` for a wrong result without a warning, `late` for
    a file that is imported but not applied, `unclear` for a note or refusal that does not name the
    cause, `crashed` for an import that ends with another error. `error` is relative to the right
    effect, None without a result.
    """

    found: str
    said: str
    error: float | None = None


class KindTrial:
    """A store with the demo set's base variant, into which one kind after another is imported.

    Args:
        folder: an empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    @contextmanager
    def opened(self) -> Iterator[KindTrial]:
        """Use the trial's store in this process for the duration of the context."""
        with store_at(self._folder / "home"):
            yield self

    def judge(self, kind: Kind) -> Verdict:
        """Import and apply a kind, in the trial's store."""
        self._count += 1
        folder = self._folder / f"kind_{self._count}"
        folder.mkdir()
        written = kind.write(folder)
        file = self._folder / "kinds.toml"
        file.write_text(_BASE + written.lines, encoding="utf-8")
        # The store's entries are per name, and each kind's has a name of its own.
        catalog = load_catalog(str(file))
        try:
            import_catalog(catalog)
        except ImportingError as error:
            return self._judge_refusal(kind, str(error), catalog, written)
        except Exception as error:
            return Verdict("crashed", _one_line(error))
        entry = get_entry(catalog, written.section, written.name)
        if entry is None:
            return Verdict("late", "imported without an entry")
        return _judge_entry(kind, entry, written)

    def _judge_refusal(
        self, kind: Kind, said: str, catalog: Catalog, written: WrittenKind
    ) -> Verdict:
        section: Section = written.section
        if get_entry(catalog, section, written.name) is not None:
            return Verdict("late", f"refused, but stored: {said}")
        is_clear = _names(kind, said) and str(self._folder) not in said and "\n" not in said
        return Verdict("refused" if is_clear else "unclear", said)


def _judge_entry(kind: Kind, entry: CatalogEntry, written: WrittenKind) -> Verdict:
    """Apply an imported entry and compare the result with the right one."""
    said = "; ".join(entry.notes)
    if written.measure is None:
        return Verdict("silent" if not said else "unclear", said or "accepted")
    try:
        error = written.measure(entry)
    except Exception as failure:
        return Verdict("late", _one_line(failure))
    # NaN is an error, too.
    if not error <= MAX_ERROR:
        return Verdict("unclear" if said else "silent", said, error)
    if not said:
        return Verdict("exact", "", error)
    return Verdict("left out" if _names(kind, said) else "unclear", said, error)


def _names(kind: Kind, said: str) -> bool:
    return all(word.lower() in said.lower() for word in kind.named)


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
