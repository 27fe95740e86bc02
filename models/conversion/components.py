"""Components of catalog entries, selection of their source files, and their conversion."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from models.catalog import Catalog, DepthEstimatorSpec, VariantSpec
from models.catalog.schema import (
    PICKLE_SUFFIXES,
    SAFETENSORS_SUFFIXES,
    Section,
    is_weight_file,
)
from models.conversion.checkpoint import split_checkpoint
from models.conversion.component import Dtype, canonicalize_component, convert_file
from models.conversion.config import CONFIG_NAME, PROCESSOR_NAME
from models.conversion.finite import require_finite
from models.conversion.single_file.layouts import LAYOUTS
from models.sources.base import SourceError

PIPELINE = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "vae")
"""Folders of a diffusers SDXL pipeline that serving needs."""

OVERRIDABLE = (*PIPELINE, "tiny_decoder")
"""Components for which a variant may name a separate source."""

SCHEDULER_CONFIG = "scheduler_config"
"""Kind of the settings of a folder's scheduler, which state how its UNet was trained."""
_SCHEDULER_FILE = "scheduler_config.json"
_STEMS = frozenset({"model", "diffusion_pytorch_model"})
_TAESD = "taesdxl_decoder"

TOKENIZERS = frozenset({"tokenizer", "tokenizer_2"})
SINGLE_FILES = frozenset({"lora", "depth_detector"})
"""Components that consist of one file, stored unchanged."""
_TEXT_SUFFIXES = frozenset({".json", ".txt"})
_SHARDS = (".safetensors.index.json", ".safetensors.index.fp16.json")


@dataclass(frozen=True, slots=True)
class ComponentSpec:
    """One component and its source.

    `folder` is relative to the source. With `checkpoint`, the source is a single-file checkpoint
    and the component is a part of it. Without `is_stored`, it consists of settings that only the
    import reads, and it may be missing.
    """

    kind: str
    source: str
    folder: str = ""
    checkpoint: bool = False
    is_stored: bool = True


def config_kind(kind: str) -> str:
    """Return the kind of the settings of the component that a single file replaces."""
    return f"{kind}_config"


def component_specs(catalog: Catalog, section: Section, name: str) -> list[ComponentSpec]:
    """Return an entry's components.

    Args:
        catalog: Catalog of the entry.
        section: Section of the entry.
        name: Name of the entry.

    Returns:
        One specification per component; a variant's are sorted by kind.
    """
    spec = getattr(catalog, section)[name]
    if section == "loras":
        return [ComponentSpec("lora", spec.source)]
    if section == "controlnets":
        return [ComponentSpec("controlnet", spec.source)]
    if isinstance(spec, DepthEstimatorSpec):
        is_detector = spec.loader == "controlnet_aux"
        return [ComponentSpec("depth_detector" if is_detector else "depth_estimator", spec.source)]
    return _variant_parts(spec)


def _variant_parts(spec: VariantSpec) -> list[ComponentSpec]:
    single = spec.is_checkpoint
    parts = {
        kind: ComponentSpec(kind, spec.source, "" if single else kind, checkpoint=single)
        for kind in PIPELINE
    }
    for kind in OVERRIDABLE:
        source = getattr(spec, kind)
        if source is None:
            continue
        parts[kind] = ComponentSpec(kind, source)
        if not single and kind in LAYOUTS and is_weight_file(source):
            settings = config_kind(kind)
            parts[settings] = ComponentSpec(settings, spec.source, kind, is_stored=False)
    if not single and spec.unet is None:
        parts[SCHEDULER_CONFIG] = ComponentSpec(
            SCHEDULER_CONFIG, spec.source, "scheduler", is_stored=False
        )
    return [parts[kind] for kind in sorted(parts)]


def select_files(part: ComponentSpec, names: Iterable[str], dtype: str | None) -> list[str]:
    """Return the names of the source's files that a component needs.

    If weights are published in both precisions, half precision is selected for float16 storage.

    Args:
        part: Component to select files for.
        names: Names of all files of the source.
        dtype: Dtype in which the networks are stored; None keeps the source's.

    Raises:
        SourceError: The folder, the configuration or the safetensors weights are missing.
    """
    prefix = f"{part.folder}/" if part.folder else ""
    inside = sorted(name for name in names if name.startswith(prefix))
    here = [name for name in inside if "/" not in name.removeprefix(prefix)]
    if not part.is_stored:
        name = _SCHEDULER_FILE if part.kind == SCHEDULER_CONFIG else CONFIG_NAME
        return [each for each in here if each == f"{prefix}{name}"]
    is_file = part.kind in LAYOUTS and not prefix and len(here) == 1 and is_weight_file(here[0])
    if part.checkpoint or part.kind in SINGLE_FILES or is_file:
        return _single_file(part, inside)
    if (file := _taesd_decoder(part, here)) is not None:
        return [file]
    if not here:
        raise SourceError(f"{part.source}: no folder {part.folder or part.kind} there")
    texts = [name for name in here if PurePosixPath(name).suffix in _TEXT_SUFFIXES]
    if part.kind in TOKENIZERS:
        return texts
    # Estimators compute in float32, so they keep their dtype.
    is_estimator = part.kind == "depth_estimator"
    weights = _weights(part, here, None if is_estimator else dtype)
    if f"{prefix}{CONFIG_NAME}" not in texts:
        advice = f"; name the weight file itself as {part.kind} =" if part.kind in LAYOUTS else ""
        raise SourceError(f"{part.source}: no config.json for {part.kind}{advice}")
    if is_estimator:
        weights += [name for name in texts if name == f"{prefix}{PROCESSOR_NAME}"]
    return sorted([f"{prefix}{CONFIG_NAME}", *weights])


def _single_file(part: ComponentSpec, inside: list[str]) -> list[str]:
    if len(inside) != 1:
        raise SourceError(f"{part.source}: {part.kind} must be one safetensors file")
    if not _is_safetensors(inside[0]):
        raise SourceError(
            f"{part.source}: {inside[0]} is not a safetensors file; only safetensors weights are "
            "read"
        )
    return inside


def _is_safetensors(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SAFETENSORS_SUFFIXES


def _taesd_decoder(part: ComponentSpec, here: list[str]) -> str | None:
    """Return the decoder's file in a folder with the files of TAESD's author."""
    if part.kind != "tiny_decoder" or any(name.endswith(CONFIG_NAME) for name in here):
        return None
    found = [name for name in here if _is_safetensors(name) and _stem(name) == _TAESD]
    return found[0] if len(found) == 1 else None


def _weights(part: ComponentSpec, here: list[str], dtype: str | None) -> list[str]:
    """Return the safetensors files of one precision: all plain ones, or all `.fp16.` ones."""
    found = [name for name in here if _is_safetensors(name) or name.endswith(_SHARDS)]
    found = [name for name in found if _stem(name) in _STEMS]
    half = [name for name in found if ".fp16" in name]
    plain = [name for name in found if ".fp16" not in name and ".non_ema" not in name]
    chosen = half if half and (dtype == "float16" or not plain) else plain
    if chosen:
        return chosen
    pickles = [name for name in here if PurePosixPath(name).suffix.lower() in PICKLE_SUFFIXES]
    if pickles:
        raise SourceError(
            f"{part.source}: {part.kind}: {', '.join(pickles)}: only safetensors weights are read"
        )
    raise SourceError(f"{part.source}: {part.kind}: no safetensors weights")


def _stem(name: str) -> str:
    """Return `model` for `model-00001-of-00002.safetensors` and for `model.fp16.safetensors`."""
    return PurePosixPath(name).name.partition(".")[0].partition("-0")[0]


def build_components(
    parts: Sequence[ComponentSpec],
    files: Mapping[str, Sequence[Path]],
    work: Path,
    dtype: Dtype | None,
) -> dict[str, Path]:
    """Convert components, each to its own folder under `work`.

    Args:
        parts: Components to convert.
        files: The source's files of each component, by kind.
        work: Empty folder.
        dtype: Dtype of the stored networks; None keeps the files'. LoRAs and depth estimators
            are not cast: a LoRA takes the dtype of its network, an estimator runs in float32.

    Returns:
        The folder of each stored component, by kind.

    Raises:
        WeightsError: A file is invalid or of another kind.
    """
    folders: dict[str, Path] = {}
    inside = [part.kind for part in parts if part.checkpoint]
    if inside:
        (checkpoint,) = files[inside[0]]
        folders |= split_checkpoint(checkpoint, work, dtype, inside)
    for kind in (part.kind for part in parts if part.is_stored and not part.checkpoint):
        folders[kind] = work / kind
        if kind in LAYOUTS and len(files[kind]) == 1:
            base = next(iter(files.get(config_kind(kind), ())), None)
            convert_file(kind, files[kind][0], folders[kind], dtype, base)
        elif kind in SINGLE_FILES:
            (file,) = files[kind]
            require_finite(file)
            folders[kind].mkdir()
            shutil.copyfile(file, folders[kind] / f"{kind.removeprefix('depth_')}.safetensors")
        else:
            chosen = work / f".{kind}"
            _link(files[kind], chosen)
            precision = None if kind == "depth_estimator" else dtype
            canonicalize_component(kind, chosen, folders[kind], precision)
    return folders


def _link(files: Sequence[Path], folder: Path) -> None:
    """Link the files into a new folder, so that the source's other files are not read."""
    folder.mkdir()
    for file in files:
        (folder / file.name).symlink_to(file.resolve())
