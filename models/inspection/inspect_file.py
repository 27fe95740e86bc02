"""Inspection of one weight file, with the checks of its import."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from models.catalog.schema import PICKLE_SUFFIXES
from models.conversion.checkpoint import CHECKPOINT_PARTS, check_checkpoint
from models.conversion.controlnet import check_controlnet
from models.conversion.controlnet_key_map import Config, layer_depths
from models.conversion.detect_kind import FileKind, Place, detect_kind
from models.conversion.finite import require_finite
from models.conversion.safetensors_io import (
    TensorEntry,
    WeightsError,
    read_header,
    read_metadata,
)
from models.conversion.sdxl_key_map import PREFIXES
from models.conversion.single_file import SINGLE_FILE_KINDS, check_single_file
from models.inspection.adapter import count_layers, describe_layers
from models.inspection.catalog_entry import Prediction, model_entry, simple_entry
from models.inspection.report import FileReport
from models.inspection.target import PUBLISHED, Target
from models.inspection.training_metadata import clean_text, describe_training
from models.lora.contents import read_contents
from models.lora.key_format import parse_key
from models.lora.layer_table import PARTS, LayerTable

Result = TypeVar("Result")

_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
           "F8_E4M3": "float8 (e4m3)", "F8_E5M2": "float8 (e5m2)"}  # fmt: skip
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_SCALES = (".scale_weight", ".weight_scale")
_EDM = re.compile(r"^edm_(mean|std|vpred)")
_NOTES: Mapping[str, Mapping[str, str]] = {
    "vae": {"note": "autoencoders of Stable Diffusion 1 and 2 have the same names and shapes; "
                    "use it only if it was published for SDXL"},
}  # fmt: skip
_NO_FACTORS = frozenset({"alpha", "bias", "up_bias", "other"})
_PICKLE_ADVICE = (
    "a pickle can run code when it is read; use the safetensors file that most publishers offer, "
    "or convert it on a machine where that does no harm"
)


def inspect_file(path: Path, targets: Sequence[Target] = (PUBLISHED,)) -> FileReport:
    """Return what a weight file is, and whether the import accepts it.

    Everything is read from the header, except that all numbers of a file that is otherwise
    accepted are searched for NaN and infinity.

    Args:
        path: the file.
        targets: models to compare it with, at least one.

    Raises:
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    name = clean_text(path.name)
    if path.suffix.lower() in PICKLE_SUFFIXES:
        return FileReport(name, size, "a pickle", problem=_PICKLE_ADVICE)
    try:
        header, metadata = read_header(path), read_metadata(path)
    except WeightsError as error:
        return FileReport(name, size, "no readable weight file", problem=_reason(path, error))
    report = FileReport(
        name, size, "a file of an unknown kind", dtypes=_count_dtypes(header),
        training=describe_training(metadata),
    )  # fmt: skip
    if _SHARD.search(path.stem):
        problem = "one of several shards: name the folder with all of them and config.json"
        return replace(report, kind="a part of a network", problem=problem)
    if not str(path.resolve()).isprintable():
        problem = "a catalog cannot contain its path; rename it without control characters"
        return replace(report, problem=problem)
    kind = _find_kind(header)
    if kind is not None:
        report = replace(report, kind=kind.name)
    try:
        accepted = _inspect(path, header, kind, targets, report)
        if accepted.is_usable:
            require_finite(path, header)
    except WeightsError as error:
        return replace(report, problem=_reason(path, error))
    return accepted


def _find_kind(header: Mapping[str, TensorEntry]) -> FileKind | None:
    kind = detect_kind(header)
    if kind is not None and kind.place not in {"unet", "text_encoder", "text_encoder_2"}:
        return kind
    # Differences, GLoRA and IA3 have the layers' own names before a suffix.
    keys = map(parse_key, header)
    if any(key is not None and key.role not in _NO_FACTORS for key in keys):
        return FileKind("a LoRA", "loras")
    return kind


def _inspect(
    path: Path,
    header: Mapping[str, TensorEntry],
    kind: FileKind | None,
    targets: Sequence[Target],
    report: FileReport,
) -> FileReport:
    """Return the completed report on a file of a kind.

    Args:
        path: the file.
        header: its header.
        kind: its kind, None if unknown.
        targets: models to compare it with.
        report: the report so far.

    Raises:
        WeightsError: the import refuses the file.
    """
    if kind is None:
        return replace(report, problem="none of its tensors has a name of a known kind of file")
    if kind.place is None:
        return replace(report, problem="this service does not apply such files")
    if kind.place == "loras":
        return _inspect_adapter(path, header, targets, report)
    if kind.place == "controlnets":
        return _inspect_controlnet(path, header, targets, report)
    if kind.place == "models":
        return _inspect_checkpoint(path, header, report)
    if kind.place in SINGLE_FILE_KINDS:
        return _inspect_component(path, header, kind.place, targets, report)
    return replace(report, problem=kind.advice)


def _inspect_adapter(
    path: Path, header: Mapping[str, TensorEntry], targets: Sequence[Target], report: FileReport
) -> FileReport:
    found = _try_each(
        targets,
        lambda target: read_contents(
            path, LayerTable({part: target.read_config(part) for part in PARTS})
        ),
    )
    contents = next(iter(found.values()))
    words = [report.training.get("title"), report.training.get("trigger phrase")]
    description = clean_text("; ".join(filter(None, words)))
    return replace(
        report,
        fits=tuple(found),
        parts=count_layers(contents),
        details=describe_layers(path, header, contents),
        left_out={clean_text(part): reason for part, reason in contents.left_out.items()},
        entry=simple_entry("loras", path, report.training, description),
    )


def _inspect_controlnet(
    path: Path, header: Mapping[str, TensorEntry], targets: Sequence[Target], report: FileReport
) -> FileReport:
    unets = {target.label: target.read_config("unet") for target in targets}
    config = check_controlnet([path], unets)
    depths = _attention_depths(config)
    if "num_control_type" in config:
        size = f"union of {config['num_control_type']} controls, used for depth maps"
    elif not any(depths):
        size = "small"
    else:
        size = "full" if depths == _attention_depths(next(iter(unets.values()))) else "mid"
    details = {"type": size, "blocks by level": ", ".join(map(str, depths))}
    return replace(
        report, fits=tuple(unets), details=details, parts={"controlnet": len(header)},
        entry=simple_entry("controlnets", path, report.training),
    )  # fmt: skip


def _attention_depths(config: Config) -> list[int]:
    """Return the number of transformer blocks per attention for each level, 0 without attention."""
    levels = zip(config["down_block_types"], layer_depths(config), strict=True)
    return [depth if kind.startswith("CrossAttn") else 0 for kind, depth in levels]


def _inspect_checkpoint(
    path: Path, header: Mapping[str, TensorEntry], report: FileReport
) -> FileReport:
    parts = {
        part: sum(name.startswith(PREFIXES[part]) for name in header) for part in CHECKPOINT_PARTS
    }
    report = replace(report, parts={part: count for part, count in parts.items() if count})
    check_checkpoint(path, [part for part in CHECKPOINT_PARTS if part in report.parts or
                            part == "unet"])  # fmt: skip
    lacking = tuple(part for part in CHECKPOINT_PARTS if part not in report.parts)
    prediction = _find_prediction(path, header, report.training)
    return replace(
        report, fits=(PUBLISHED.label,), details=_describe_prediction(prediction),
        entry=model_entry("models", path, report.training, lacking, prediction),
    )  # fmt: skip


def _inspect_component(
    path: Path,
    header: Mapping[str, TensorEntry],
    place: Place,
    targets: Sequence[Target],
    report: FileReport,
) -> FileReport:
    prediction = _find_prediction(path, header, report.training) if place == "unet" else None
    try:
        found = _fitting(place, path, targets)
    except WeightsError:
        # Text encoders of unpublished sizes have the same names.
        if place != "text_encoder":
            raise
        place = "text_encoder_2"
        found = _fitting(place, path, targets)
    return replace(
        report, fits=tuple(target.label for target in found), parts={place: len(header)},
        details=_describe_prediction(prediction) if prediction else _NOTES.get(place, {}),
        entry=model_entry(
            place, path, report.training, prediction=prediction,
            base=found[0].source, native_size=found[0].native_size,
        ),
    )  # fmt: skip


def _fitting(place: Place, path: Path, targets: Sequence[Target]) -> list[Target]:
    found = _try_each(targets, lambda target: check_single_file(place, path, target.configs[place]))
    return [target for target in targets if target.label in found]


def _find_prediction(
    path: Path, header: Mapping[str, TensorEntry], training: Mapping[str, str]
) -> Prediction:
    """Return what a UNet predicts, by the marks that ComfyUI reads or by the metadata.

    Raises:
        WeightsError: it was trained with other noise levels than SDXL's.
    """
    if any(map(_EDM.match, header)):
        raise WeightsError(
            f"{path.name}: trained with the noise levels of EDM, which this service does not apply"
        )
    stated = training.get("prediction type", "").lower()
    is_velocity = "v_pred" in header or stated in {"v", "v_prediction", "v-prediction"}
    return Prediction(is_velocity, "ztsnr" in header)


def _describe_prediction(prediction: Prediction) -> dict[str, str]:
    quantity = "velocity" if prediction.is_velocity else "noise"
    return {"predicts": f"{quantity}, zero terminal SNR" if prediction.is_zero_snr else quantity}


def _try_each(targets: Sequence[Target], check: Callable[[Target], Result]) -> dict[str, Result]:
    """Return the results of a check by the labels of the targets that pass it.

    Raises:
        WeightsError: none passes; the first one's reason.
    """
    found: dict[str, Result] = {}
    refusals = []
    for target in targets:
        try:
            found[target.label] = check(target)
        except WeightsError as error:
            refusals.append(error)
    if not found:
        raise refusals[0]
    return found


def _count_dtypes(header: Mapping[str, TensorEntry]) -> dict[str, int]:
    counts = Counter(_DTYPES.get(entry.dtype, entry.dtype) for entry in header.values())
    if any(name.endswith(_SCALES) for name in header):
        counts = Counter({
            f"scaled {dtype}" if dtype.startswith("float8") else dtype: count
            for dtype, count in counts.items()
        })  # fmt: skip
    return dict(counts.most_common())


def _reason(path: Path, error: WeightsError) -> str:
    """Return an error's message without the file's name, cleaned."""
    return clean_text(str(error).removeprefix(f"{path.name}: "), 600)
