"""What an entry of a catalog is made of: its components, and which files of a source they need."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from models.catalog import Catalog, DepthEstimatorSpec, VariantSpec
from models.component_config import PROCESSOR_NAME
from models.sources import PICKLE_SUFFIXES, SourceError
from models.store import Section

PIPELINE = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "vae")
"""The folders of a diffusers SDXL pipeline that serving needs."""

OWN_SOURCES = ("tokenizer", "tokenizer_2", "unet", "vae", "tiny_decoder")
"""Components for which a variant may name a source of their own."""

TOKENIZERS = frozenset({"tokenizer", "tokenizer_2"})
SINGLE_FILES = frozenset({"lora", "depth_detector"})
"""Components that are one file, kept as it is."""
_TEXT_SUFFIXES = frozenset({".json", ".txt"})
_SHARDS = (".safetensors.index.json", ".safetensors.index.fp16.json")


@dataclass(frozen=True, slots=True)
class Part:
    """One component and where it comes from.

    `folder` lies within the source; of a `checkpoint`, a single file with all networks, the
    component is a part.
    """

    kind: str
    source: str
    folder: str = ""
    checkpoint: bool = False


def parts_of(catalog: Catalog, section: Section, name: str) -> list[Part]:
    """An entry's components, by kind."""
    spec = getattr(catalog, section)[name]
    if section == "loras":
        return [Part("lora", spec.source)]
    if section == "controlnets":
        return [Part("controlnet", spec.source)]
    if isinstance(spec, DepthEstimatorSpec):
        foreign = spec.loader == "controlnet_aux"
        return [Part("depth_detector" if foreign else "depth_estimator", spec.source)]
    return _variant_parts(spec)


def _variant_parts(spec: VariantSpec) -> list[Part]:
    single = spec.is_checkpoint
    parts = {
        kind: Part(kind, spec.source, "" if single else kind, checkpoint=single)
        for kind in PIPELINE
    }
    for kind in OWN_SOURCES:
        source = getattr(spec, kind)
        if source is not None:
            parts[kind] = Part(kind, source)
    return [parts[kind] for kind in sorted(parts)]


def select(part: Part, names: Iterable[str], dtype: str | None) -> list[str]:
    """Which of a source's files a component needs, with the source's names.

    Weights published in both precisions are taken in half where that is what will be stored.

    Raises:
        SourceError: nothing there, no safetensors weights, or pickles alone.
    """
    prefix = f"{part.folder}/" if part.folder else ""
    inside = sorted(name for name in names if name.startswith(prefix))
    here = [name for name in inside if "/" not in name.removeprefix(prefix)]
    if part.checkpoint or part.kind in SINGLE_FILES:
        return _single_file(part, inside)
    if not here:
        raise SourceError(f"{part.source}: no folder {part.folder or part.kind} there")
    texts = [name for name in here if PurePosixPath(name).suffix in _TEXT_SUFFIXES]
    if part.kind in TOKENIZERS:
        return texts
    # Estimators compute in float32, so they are stored as they come.
    estimates = part.kind == "depth_estimator"
    weights = _weights(part, here, None if estimates else dtype)
    if f"{prefix}config.json" not in texts:
        raise SourceError(f"{part.source}: no config.json for {part.kind}")
    if estimates:
        weights += [name for name in texts if name == f"{prefix}{PROCESSOR_NAME}"]
    return sorted([f"{prefix}config.json", *weights])


def _single_file(part: Part, inside: list[str]) -> list[str]:
    if len(inside) != 1:
        raise SourceError(f"{part.source}: {part.kind} must be one safetensors file")
    if PurePosixPath(inside[0]).suffix != ".safetensors":
        raise SourceError(
            f"{part.source}: {inside[0]} is not a safetensors file; only safetensors weights are "
            "read"
        )
    return inside


def _weights(part: Part, here: list[str], dtype: str | None) -> list[str]:
    """The safetensors files of one precision: all the plain ones, or all the `.fp16.` ones."""
    found = [name for name in here if name.endswith((".safetensors", *_SHARDS))]
    stems = {"model", "diffusion_pytorch_model"}
    found = [name for name in found if _stem(name) in stems]
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
    """`model` of `model-00001-of-00002.safetensors` and of `model.fp16.safetensors`."""
    return PurePosixPath(name).name.partition(".")[0].partition("-0")[0]
