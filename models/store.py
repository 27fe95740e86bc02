"""The Bento model store as this project uses it: content-addressed components, named entries.

A component (a UNet, a tokenizer …) is a Bento model `sdxl-<kind>:<digest>`: equal content is
stored once, whichever variants and catalogs use it. An entry (a variant, a ControlNet, a LoRA of
one catalog) is a small Bento model `<catalog>.<section>.<name>:<digest>` that lists its
components' tags, so an entry is either wholly there or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import bentoml
from bentoml.exceptions import BentoMLException, NotFound

from models.catalog import Catalog

Section = Literal["models", "controlnets", "loras"]
SECTIONS: tuple[Section, ...] = ("models", "controlnets", "loras")
_MANIFEST = "entry.json"
_DIGEST_LENGTH = 32


class StoreError(RuntimeError):
    """The store lacks something or holds something damaged; the message says what to run."""


@dataclass(frozen=True, slots=True)
class Component:
    """A component in the store: what it is, where its files lie, what they are."""

    kind: str
    tag: str
    path: Path
    size: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A variant, ControlNet or LoRA of a catalog, whole in the store."""

    section: Section
    name: str
    tag: str
    digest: str
    components: Mapping[str, Component]

    @property
    def size(self) -> int:
        """Bytes on disk of all components, shared ones included."""
        return sum(component.size for component in self.components.values())


@dataclass(frozen=True, slots=True)
class Inventory:
    """What of a catalog is in the store, by section and name."""

    models: Mapping[str, Entry]
    controlnets: Mapping[str, Entry]
    loras: Mapping[str, Entry]


def entry_name(catalog: Catalog, section: Section, name: str) -> str:
    """The Bento model name of an entry."""
    return f"{catalog.name}.{section}.{name}"


def digest_files(folder: Path, files: list[str]) -> str:
    """SHA-256 over the names and contents of `files` (sorted), hexadecimal, shortened."""
    total = hashlib.sha256()
    for name in sorted(files):
        with (folder / name).open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256")
        total.update(f"{name}\0{content.hexdigest()}\n".encode())
    return total.hexdigest()[:_DIGEST_LENGTH]


def put_component(
    kind: str, folder: Path, files: list[str], labels: Mapping[str, str]
) -> tuple[str, bool]:
    """Store a component's files; returns its tag and whether it was new."""
    digest = digest_files(folder, files)
    tag = f"sdxl-{kind}:{digest}"
    if _find(tag) is not None:
        return tag, False
    with bentoml.models.create(tag, labels={**labels, "kind": kind}) as model:
        target = Path(model.path)
        for name in files:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes((folder / name).read_bytes())
        if digest_files(target, files) != digest:
            raise StoreError(f"{kind}: the copy differs from its source; import again")
    return tag, True


def put_entry(
    catalog: Catalog, section: Section, name: str, components: Mapping[str, str]
) -> tuple[str, bool]:
    """Store the list of an entry's component tags; returns its tag and whether it was new."""
    manifest = json.dumps({"components": dict(sorted(components.items()))}, indent=1)
    digest = hashlib.sha256(manifest.encode()).hexdigest()[:_DIGEST_LENGTH]
    tag = f"{entry_name(catalog, section, name)}:{digest}"
    known = _find(tag)
    if known is not None:
        return tag, False
    spec = getattr(catalog, section)[name]
    labels = {
        "catalog": catalog.name,
        "source": _label(spec.source),
        "licence": _label(spec.licence),
    }
    with bentoml.models.create(tag, labels=labels) as model:
        Path(model.path, _MANIFEST).write_text(manifest, encoding="utf-8")
    return tag, True


def get_entry(catalog: Catalog, section: Section, name: str) -> Entry | None:
    """The entry as last imported, or None when it, or one of its components, is missing."""
    model = _find(f"{entry_name(catalog, section, name)}:latest")
    if model is None:
        return None
    manifest = json.loads(Path(model.path, _MANIFEST).read_text(encoding="utf-8"))
    components = {}
    for kind, tag in manifest["components"].items():
        found = _find(tag)
        if found is None:
            return None
        path = Path(found.path)
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        components[kind] = Component(kind, tag, path, size)
    return Entry(section, name, str(model.tag), str(model.tag.version), components)


def inventory(catalog: Catalog) -> Inventory:
    """Everything of the catalog that is in the store."""
    found: dict[str, dict[str, Entry]] = {section: {} for section in SECTIONS}
    for section in SECTIONS:
        for name in getattr(catalog, section):
            entry = get_entry(catalog, section, name)
            if entry is not None:
                found[section][name] = entry
    return Inventory(**found)


def default_name(there: Mapping[str, Entry], preferred: str) -> str:
    """The catalog's default where it is in the store, else the first that is."""
    return preferred if preferred in there else next(iter(there))


def require(catalog: Catalog) -> Inventory:
    """The inventory, if it suffices to serve: a variant and a ControlNet at least.

    Raises:
        StoreError: names what is missing and the command that imports it.
    """
    found = inventory(catalog)
    missing = [f"models.{name}" for name in catalog.models if name not in found.models]
    missing += [f"controlnets.{n}" for n in catalog.controlnets if n not in found.controlnets]
    if not found.models or not found.controlnets:
        raise StoreError(
            f"weights of catalog {catalog.name!r} are missing from the model store: "
            f"{', '.join(missing)}. Import them with: "
            f"python -m models import --catalog {catalog.name}"
        )
    return found


def damaged(found: Inventory) -> Iterator[str]:
    """Tags of components whose files no longer match the digest in their tag."""
    seen: set[str] = set()
    for section in SECTIONS:
        for entry in getattr(found, section).values():
            for component in entry.components.values():
                if component.tag in seen:
                    continue
                seen.add(component.tag)
                files = [
                    str(file.relative_to(component.path))
                    for file in component.path.rglob("*")
                    if file.is_file() and file.name != "model.yaml"
                ]
                if digest_files(component.path, files) != component.tag.partition(":")[2]:
                    yield component.tag


def _find(tag: str) -> bentoml.Model | None:
    try:
        return bentoml.models.get(tag)
    except (NotFound, BentoMLException):
        return None


def _label(text: str) -> str:
    """Bento labels admit 63 letters, digits, `-`, `_` and `.` only."""
    kept = "".join(char if char.isascii() and char.isalnum() else "-" for char in text)
    return kept[-63:].strip("-")
