"""Importing: from a catalog's sources into the Bento model store."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from models.catalog import Catalog
from models.store import SECTIONS, Section, StoreError, put_component, put_entry

PIPELINE_COMPONENTS = (
    "text_encoder",
    "text_encoder_2",
    "tokenizer",
    "tokenizer_2",
    "unet",
    "vae",
)
OWN_SOURCES = ("unet", "tiny_decoder")
"""Components for which a variant may name a source of their own."""
_PICKLES = {".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle"}
_WEIGHTLESS = {"tokenizer", "tokenizer_2"}


class ImportingError(RuntimeError):
    """A source that cannot be imported; the message names it and says why."""


def import_catalog(catalog: Catalog, report: Callable[[str], None]) -> int:
    """Bring every entry of the catalog into the store; returns how many components were new.

    Entries already there cost one read of their files, for the digest.

    Raises:
        ImportingError: a source is absent, incomplete, or of a kind that cannot be read.
    """
    new = 0
    for section in SECTIONS:
        for name in getattr(catalog, section):
            new += _import_entry(catalog, section, name, report)
    return new


def _import_entry(
    catalog: Catalog, section: Section, name: str, report: Callable[[str], None]
) -> int:
    labels = {"catalog": catalog.name}
    tags: dict[str, str] = {}
    new = 0
    for kind, (folder, files) in _parts(catalog, section, name).items():
        try:
            tags[kind], added = put_component(kind, folder, files, labels)
        except (StoreError, OSError) as error:
            raise ImportingError(f"{section}.{name}: {kind}: {error}") from error
        new += added
    tag, added = put_entry(catalog, section, name, tags)
    report(f"{'imported' if added else 'present '}  {tag}")
    return new


def _local_path(catalog: Catalog, source: str, where: str) -> Path:
    if not source.startswith("file:"):
        raise ImportingError(
            f"{where}: {source} cannot be fetched by this version; download it, and point the "
            "catalog's source at it with file:"
        )
    path = catalog.source_path(source)
    if not path.exists():
        raise ImportingError(f"{where}: {source} does not exist")
    return path


def _local_folder(catalog: Catalog, source: str, where: str) -> Path:
    path = _local_path(catalog, source, where)
    if not path.is_dir():
        raise ImportingError(f"{path.name} is not a folder with diffusers components")
    return path


def _parts(catalog: Catalog, section: Section, name: str) -> dict[str, tuple[Path, list[str]]]:
    """An entry's components: for each the folder and the names of its files in it."""
    where = f"{section}.{name}"
    source = getattr(catalog, section)[name].source
    if section == "loras":
        path = _local_path(catalog, source, where)
        if path.suffix != ".safetensors":
            raise ImportingError(f"{path.name}: a LoRA is one safetensors file")
        return {"lora": (path.parent, [path.name])}
    if section == "controlnets":
        folder = _local_folder(catalog, source, where)
        return {"controlnet": (folder, _files(folder, "controlnet"))}
    folders = component_folders(catalog, name)
    return {kind: (folder, _files(folder, kind)) for kind, folder in folders.items()}


def component_folders(catalog: Catalog, model: str) -> dict[str, Path]:
    """Where a variant's components lie: in its source, or where it names a source of their own."""
    spec, where = catalog.models[model], f"models.{model}"
    folders = _pipeline_parts(_local_folder(catalog, spec.source, where))
    for kind in OWN_SOURCES:
        source = getattr(spec, kind)
        if source is not None:
            folders[kind] = _local_folder(catalog, source, f"{where}.{kind}")
    return folders


def _pipeline_parts(folder: Path) -> dict[str, Path]:
    index = folder / "model_index.json"
    if not index.is_file():
        raise ImportingError(f"{folder.name}: no model_index.json, so not a diffusers model folder")
    listed = json.loads(index.read_text(encoding="utf-8"))
    missing = [
        part for part in PIPELINE_COMPONENTS if part not in listed or not (folder / part).is_dir()
    ]
    if missing:
        raise ImportingError(f"{folder.name}: incomplete, without {', '.join(missing)}")
    return {part: folder / part for part in PIPELINE_COMPONENTS}


def _files(folder: Path, kind: str) -> list[str]:
    """The files of a component, relative; refuses pickles and components without weights."""
    files = [path for path in folder.iterdir() if path.is_file()]
    pickles = sorted(path.name for path in files if path.suffix in _PICKLES)
    if pickles:
        raise ImportingError(f"{kind}: {', '.join(pickles)}: only safetensors weights are read")
    if kind not in _WEIGHTLESS and not any(path.suffix == ".safetensors" for path in files):
        raise ImportingError(f"{kind}: no safetensors file in {folder.name}")
    return sorted(path.name for path in files if path.suffix in {".safetensors", ".json", ".txt"})
