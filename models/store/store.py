"""Content-addressed components and named entries in the Bento model store.

A component, such as a UNet or a tokenizer, is a Bento model `sdxl-<kind>:<digest>`. Equal content
is stored once for all variants and catalogs. An entry is a catalog's variant, ControlNet, LoRA or
depth estimator. It is a small Bento model `<catalog>.<section>.<name>:<digest>` that lists the
tags of its components, so that an entry is stored completely or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import bentoml
from bentoml.exceptions import NotFound

from models.catalog import Catalog
from models.catalog.scheduler import SILENT, Prediction
from models.catalog.schema import Section
from models.store.atomic_write import commit, set_latest, staging_dir, store_root
from models.store.bento import bento_model_versions

_MANIFEST = "entry.json"
_DIGEST_LENGTH = 32


class StoreError(RuntimeError):
    """Missing or corrupt content of the store; the message has the command that repairs it."""


@dataclass(frozen=True, slots=True)
class Component:
    """A component in the store; `size` is in bytes."""

    kind: str
    tag: str
    path: Path
    size: int


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A variant, ControlNet, LoRA or depth estimator in the store, with all components."""

    section: Section
    name: str
    tag: str
    digest: str
    components: Mapping[str, Component]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Inputs of the conversion; the importer compares it to detect changes."""
    notes: Sequence[str] = ()
    """What the import left out, one sentence each."""
    prediction: Prediction = SILENT
    """What a variant's weights state about the training of its UNet."""

    @property
    def size(self) -> int:
        """Bytes on disk of all components, including shared ones."""
        return sum(component.size for component in self.components.values())


def entry_name(catalog: Catalog, section: Section, name: str) -> str:
    """Return the Bento model name of an entry.

    Args:
        catalog: Catalog of the entry.
        section: Section of the entry.
        name: Name of the entry.
    """
    return f"{catalog.name}.{section}.{name}"


def digest_files(folder: Path, files: list[str]) -> str:
    """Return 32 hexadecimal digits of the SHA-256 over the sorted file names and contents."""
    total = hashlib.sha256()
    for name in sorted(files):
        with (folder / name).open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256")
        total.update(f"{name}\0{content.hexdigest()}\n".encode())
    return total.hexdigest()[:_DIGEST_LENGTH]


def put_component(kind: str, folder: Path, catalog: str, source: str, licence: str) -> str:
    """Store a folder from `staging_dir` as a component and return its tag.

    An existing component of equal content is kept, with the labels of its first import.

    Args:
        kind: Kind of the component, such as `unet`.
        folder: Folder with the component's files.
        catalog: Name of the catalog, for the labels.
        source: Source of the component, for the labels.
        licence: Licence of the component, for the labels.

    Raises:
        StoreError: the component exists but is unreadable.
    """
    files = [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()]
    digest = digest_files(folder, files)
    tag = f"sdxl-{kind}:{digest}"
    if _find(tag) is None:
        labels = {"kind": kind, "digest": digest, "catalog": catalog}
        commit(folder, tag, {**labels, **_origin_labels(source, licence)}, {"source": source})
    return tag


def put_entry(
    catalog: Catalog,
    section: Section,
    name: str,
    components: Mapping[str, str],
    recipe: Mapping[str, Any],
    notes: Sequence[str] = (),
    prediction: Prediction = SILENT,
) -> str:
    """Store an entry, make it the latest version, and return its tag.

    Args:
        catalog: Catalog of the entry.
        section: Section of the entry.
        name: Name of the entry.
        components: Tags of the components, by kind.
        recipe: JSON-compatible inputs of the conversion.
        notes: What the import left out, one sentence each.
        prediction: What a variant's weights state about the training of its UNet.
    """
    content: dict[str, Any] = {"components": dict(sorted(components.items())), "recipe": recipe}
    if notes:
        content["notes"] = list(notes)
    if prediction != SILENT:
        content["prediction"] = asdict(prediction)
    manifest = json.dumps(content, indent=1, sort_keys=True)
    digest = hashlib.sha256(manifest.encode()).hexdigest()[:_DIGEST_LENGTH]
    tag = f"{entry_name(catalog, section, name)}:{digest}"
    if _find(tag) is not None:
        set_latest(tag)
        return tag
    spec = getattr(catalog, section)[name]
    labels = {
        "catalog": catalog.name,
        "digest": digest,
        **_origin_labels(spec.source, spec.licence),
    }
    with staging_dir() as folder:
        entry = folder / "entry"
        entry.mkdir()
        (entry / _MANIFEST).write_text(manifest, encoding="utf-8")
        commit(entry, tag, labels, {"source": spec.source})
    return tag


def get_entry(catalog: Catalog, section: Section, name: str) -> CatalogEntry | None:
    """Return the entry, or None if it or one of its components is missing.

    The version is the latest import, or inside a Bento the one that the Bento was built with.

    Args:
        catalog: Catalog of the entry.
        section: Section of the entry.
        name: Name of the entry.

    Raises:
        StoreError: the entry or one of its components exists but is unreadable.
    """
    model_name = entry_name(catalog, section, name)
    model = _find(f"{model_name}:{bento_model_versions().get(model_name, 'latest')}")
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
    recipe, notes = manifest.get("recipe", {}), tuple(manifest.get("notes", ()))
    prediction = Prediction(**manifest.get("prediction", {}))
    return CatalogEntry(section, name, tag, digest, components, recipe, notes, prediction)


def _find(tag: str) -> bentoml.Model | None:
    """Return a Bento model, or None if it does not exist.

    Raises:
        StoreError: the model exists but is unreadable.
    """
    try:
        return bentoml.models.get(tag)
    except NotFound:
        return None
    # A damaged model.yaml raises BentoML's, PyYAML's and cattrs' exceptions.
    except Exception as error:
        name, _, version = tag.partition(":")
        folder = store_root() / name / ("" if version == "latest" else version)
        raise StoreError(
            f"{tag} in the model store is unreadable. Delete the folder {folder} and import again"
        ) from error


def _origin_labels(source: str, licence: str) -> dict[str, str]:
    return {"source": _to_label(source), "licence": _to_label(licence)}


def _to_label(text: str) -> str:
    """Return a valid Bento label: at most 63 letters, digits, `-`, `_` and `.`."""
    kept = "".join(
        char if char.isascii() and (char.isalnum() or char in "._-") else "-" for char in text
    )
    return kept[-63:].strip("._-")
