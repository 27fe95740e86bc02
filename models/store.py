"""The Bento model store as this project uses it: content-addressed components, named entries.

A component (a UNet, a tokenizer …) is a Bento model `sdxl-<kind>:<digest>`: equal content is
stored once, whichever variants and catalogs use it. An entry (a variant, a ControlNet, a LoRA, a
depth estimator of one catalog) is a small Bento model `<catalog>.<section>.<name>:<digest>` that
lists its components' tags, so an entry is either wholly there or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import bentoml
from bentoml.exceptions import BentoMLException, NotFound

from models.built import built_versions
from models.catalog import Catalog
from models.staging import place, set_latest, staging

Section = Literal["models", "controlnets", "loras", "depth_estimators"]
SECTIONS: tuple[Section, ...] = ("models", "controlnets", "loras", "depth_estimators")
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
    """A variant, ControlNet, LoRA or depth estimator of a catalog, whole in the store."""

    section: Section
    name: str
    tag: str
    digest: str
    components: Mapping[str, Component]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """What it was made from; compared by the importer alone."""

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
    depth_estimators: Mapping[str, Entry] = field(default_factory=dict)


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


def put_component(kind: str, folder: Path, catalog: str, source: str, licence: str) -> str:
    """Store a folder from `staging` as a component; returns its tag.

    A component of equal content that is there already stays, with the labels of its first import.
    """
    files = [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()]
    digest = digest_files(folder, files)
    tag = f"sdxl-{kind}:{digest}"
    if _find(tag) is None:
        labels = {"kind": kind, "digest": digest, "catalog": catalog}
        place(folder, tag, {**labels, **_origin(source, licence)}, {"source": source})
    return tag


def put_entry(
    catalog: Catalog,
    section: Section,
    name: str,
    components: Mapping[str, str],
    recipe: Mapping[str, Any],
) -> str:
    """Store the list of an entry's component tags, and make it the one in use; returns its tag."""
    content = {"components": dict(sorted(components.items())), "recipe": recipe}
    manifest = json.dumps(content, indent=1, sort_keys=True)
    digest = hashlib.sha256(manifest.encode()).hexdigest()[:_DIGEST_LENGTH]
    tag = f"{entry_name(catalog, section, name)}:{digest}"
    if _find(tag) is not None:
        set_latest(tag)
        return tag
    spec = getattr(catalog, section)[name]
    labels = {"catalog": catalog.name, "digest": digest, **_origin(spec.source, spec.licence)}
    with staging() as folder:
        made = folder / "entry"
        made.mkdir()
        (made / _MANIFEST).write_text(manifest, encoding="utf-8")
        place(made, tag, labels, {"source": spec.source})
    return tag


def get_entry(catalog: Catalog, section: Section, name: str) -> Entry | None:
    """The entry, or None when it, or one of its components, is missing.

    It is the one as last imported; inside a Bento, the one that the Bento was built with.
    """
    known = entry_name(catalog, section, name)
    model = _find(f"{known}:{built_versions().get(known, 'latest')}")
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
    tag, digest = str(model.tag), str(model.tag.version)
    return Entry(section, name, tag, digest, components, manifest.get("recipe", {}))


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
    """The catalog's default where it is in the store, else the first that is, if any."""
    return preferred if preferred in there else next(iter(there), preferred)


def missing(catalog: Catalog, found: Inventory) -> list[str]:
    """What of the catalog is not in the store, as `section.name`."""
    return [
        f"{section}.{name}"
        for section in SECTIONS
        for name in getattr(catalog, section)
        if name not in getattr(found, section)
    ]


def how_to_import(catalog: Catalog, names: list[str]) -> str:
    """One sentence: what is missing, and the command that imports it."""
    return (
        f"weights of catalog {catalog.name!r} are missing from the model store: "
        f"{', '.join(names)}. Import them with: "
        f"python -m models import --catalog {catalog.argument}"
    )


def require(catalog: Catalog) -> Inventory:
    """The inventory, if it suffices to serve: a variant and a ControlNet at least.

    Raises:
        StoreError: names what is missing and the command that imports it.
    """
    found = inventory(catalog)
    if not found.models or not found.controlnets:
        raise StoreError(how_to_import(catalog, missing(catalog, found)))
    return found


def damaged(found: Inventory) -> Iterator[Component]:
    """Components whose files no longer match the digest in their tag."""
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
                    yield component


def _find(tag: str) -> bentoml.Model | None:
    try:
        return bentoml.models.get(tag)
    except (NotFound, BentoMLException):
        return None


def _origin(source: str, licence: str) -> dict[str, str]:
    return {"source": _label(source), "licence": _label(licence)}


def _label(text: str) -> str:
    """Bento labels admit 63 letters, digits, `-`, `_` and `.` only."""
    kept = "".join(
        char if char.isascii() and (char.isalnum() or char in "._-") else "-" for char in text
    )
    return kept[-63:].strip("._-")
