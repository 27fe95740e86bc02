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
    is_single_file,
)
from models.conversion.checkpoint import split_checkpoint
from models.conversion.component import Dtype, canonicalize_component
from models.conversion.config import CONFIG_NAME, PROCESSOR_NAME
from models.conversion.controlnet import convert_controlnet
from models.conversion.controlnet_key_map import Config
from models.conversion.safetensors_io import read_header
from models.conversion.single_file import SINGLE_FILE_KINDS, convert_single_file
from models.sources.base import SourceError

PIPELINE = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "vae")
"""Folders of a diffusers SDXL pipeline that serving needs."""

OVERRIDABLE = (
    "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "vae", "tiny_decoder",
)  # fmt: skip
"""Components for which a variant may name a separate source."""

TOKENIZERS = frozenset({"tokenizer", "tokenizer_2"})
SINGLE_FILES = frozenset({"lora", "depth_detector"})
"""Components that consist of one file, stored unchanged."""
_TEXT_SUFFIXES = frozenset({".json", ".txt"})
_WHOLE_CONTROLNETS = frozenset(
    {"diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"}
)
_STEMS = frozenset({"model", "diffusion_pytorch_model"})
_SHARDS = (".safetensors.index.json", ".safetensors.index.fp16.json")


@dataclass(frozen=True, slots=True)
class ComponentSpec:
    """One component and its source.

    `folder` is relative to the source. With `checkpoint`, the source is a single-file checkpoint
    and the component is a part of it. With `single_file`, the source is one file of the component,
    and `base` the folder of a variant whose own component of the kind has a configuration.
    """

    kind: str
    source: str
    folder: str = ""
    checkpoint: bool = False
    single_file: bool = False
    base: str | None = None

    @property
    def config_name(self) -> str:
        """Name of the configuration within `base`."""
        return f"{self.kind}/{CONFIG_NAME}"


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
        if kind in SINGLE_FILE_KINDS and is_single_file(source):
            base = None if single else spec.source
            parts[kind] = ComponentSpec(kind, source, single_file=True, base=base)
        else:
            parts[kind] = ComponentSpec(kind, source)
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
    if part.checkpoint or part.single_file or part.kind in SINGLE_FILES:
        return _single_file(part, inside)
    if not here:
        raise SourceError(f"{part.source}: no folder {part.folder or part.kind} there")
    texts = [name for name in here if PurePosixPath(name).suffix in _TEXT_SUFFIXES]
    if part.kind in TOKENIZERS:
        return texts
    if part.kind == "controlnet":
        # Without config.json, the conversion derives the configuration from the weights.
        configs = [name for name in texts if name == "config.json"]
        return sorted([*configs, *_controlnet_weights(part, here, dtype)])
    # Estimators compute in float32, so they keep their dtype.
    is_estimator = part.kind == "depth_estimator"
    weights = _weights(part, here, None if is_estimator else dtype)
    if f"{prefix}config.json" not in texts:
        raise SourceError(f"{part.source}: no config.json for {part.kind}")
    if is_estimator:
        weights += [name for name in texts if name == f"{prefix}{PROCESSOR_NAME}"]
    return sorted([f"{prefix}config.json", *weights])


def _single_file(part: ComponentSpec, inside: list[str]) -> list[str]:
    if len(inside) != 1:
        raise SourceError(f"{part.source}: {part.kind} must be one safetensors file")
    if PurePosixPath(inside[0]).suffix.lower() not in SAFETENSORS_SUFFIXES:
        raise SourceError(
            f"{part.source}: {inside[0]} is not a safetensors file; only safetensors weights are "
            "read"
        )
    return inside


def _controlnet_weights(part: ComponentSpec, here: list[str], dtype: str | None) -> list[str]:
    """Return the safetensors files with the standard name, or the only one with any name."""
    found = [name for name in here if PurePosixPath(name).suffix.lower() in SAFETENSORS_SUFFIXES]
    if len(found) > 1 and not any(_stem(name) in _STEMS for name in found):
        raise SourceError(
            f"{part.source}: {part.kind}: several weight files ({', '.join(found)}); name one of "
            "them as the source"
        )
    chosen = found if len(found) == 1 else _weights(part, here, dtype)
    whole = [name for name in chosen if PurePosixPath(name).name in _WHOLE_CONTROLNETS]
    return whole or chosen


def _weights(part: ComponentSpec, here: list[str], dtype: str | None) -> list[str]:
    """Return the safetensors files of one precision: all plain ones, or all `.fp16.` ones."""
    found = [name for name in here if name.endswith((".safetensors", *_SHARDS))]
    found = [name for name in found if _stem(name) in _STEMS]
    half = [name for name in found if ".fp16" in name]
    plain = [name for name in found if ".fp16" not in name and ".non_ema" not in name]
    chosen = half if half and (dtype == "float16" or not plain) else plain
    if chosen:
        return chosen
    pickles = [name for name in here if PurePosixPath(name).suffix in PICKLE_SUFFIXES]
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
    unets: Mapping[str, Config] | None = None,
) -> dict[str, Path]:
    """Convert components, each to its own folder under `work`.

    Args:
        parts: Components to convert.
        files: The source's files of each component, by kind, and a single file's configuration by
            its name within the base.
        work: Empty folder.
        dtype: Dtype of the stored networks; None keeps the files'. LoRAs and depth estimators
            are not cast: a LoRA takes the dtype of its network, an estimator runs in float32.
        unets: Configurations of the UNets that a ControlNet must fit, by a label of their model.
            Without any, it must fit SDXL's.

    Returns:
        The folder of each component, by kind.

    Raises:
        WeightsError: A file is invalid or of another kind.
    """
    folders: dict[str, Path] = {}
    inside = [part.kind for part in parts if part.checkpoint]
    if inside:
        (checkpoint,) = files[inside[0]]
        folders |= split_checkpoint(checkpoint, work, dtype, inside)
    single = {part.kind for part in parts if part.single_file}
    for kind in (part.kind for part in parts if not part.checkpoint):
        folders[kind] = work / kind
        if kind in single:
            (file,) = files[kind]
            (config,) = files.get(f"{kind}/{CONFIG_NAME}") or (None,)
            convert_single_file(kind, file, folders[kind], dtype, config)
        elif kind in SINGLE_FILES:
            (file,) = files[kind]
            read_header(file)
            folders[kind].mkdir()
            shutil.copyfile(file, folders[kind] / f"{kind.removeprefix('depth_')}.safetensors")
        elif kind == "controlnet":
            convert_controlnet(files[kind], folders[kind], dtype, unets or {})
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
