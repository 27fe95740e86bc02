"""Training objective that a checkpoint or UNet states about itself.

ComfyUI writes empty tensors, `v_pred` and `ztsnr`. Stability AI's model metadata has the key
`modelspec.prediction_type`, of which ComfyUI's spelling is `modelspec.predict_key`. A folder of
diffusers has scheduler/scheduler_config.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models.catalog.scheduler import SILENT, ZERO_SNR, Prediction, PredictionType
from models.conversion.config import read_json
from models.conversion.safetensors_io import WeightsError, read_header, read_metadata

_V_PREDICTION, _ZERO_SNR = "v_pred", "ztsnr"
_EDM = {
    "edm_mean": "Playground v2.5's formulation of EDM",
    "edm_std": "Playground v2.5's formulation of EDM",
    "edm_vpred.sigma_max": "EDM with v-prediction, as CosXL has it",
    "edm_vpred.sigma_min": "EDM with v-prediction, as CosXL has it",
}
STATEMENTS = frozenset({_V_PREDICTION, _ZERO_SNR, *_EDM})
"""Tensors that state something about a UNet without being part of it."""
_UNSUPPORTED = (
    "which no scheduler of this service can sample; give a model with epsilon or v-prediction"
)
_METADATA_KEYS = ("modelspec.prediction_type", "modelspec.predict_key")
_TYPES: dict[str, PredictionType] = {
    "epsilon": "epsilon", "eps": "epsilon",
    "v": "v_prediction", "v_prediction": "v_prediction", "v-prediction": "v_prediction",
    "v_pred": "v_prediction", "velocity": "v_prediction",
}  # fmt: skip
_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "model.")


def read_prediction(files: Sequence[Path], scheduler_config: Path | None = None) -> Prediction:
    """Return what the files of a UNet or a checkpoint state about its training.

    Tensors take precedence over metadata, because tools write metadata without looking at the
    weights. A folder's scheduler only counts where it is not diffusers' default, which exporters
    write for every model.

    Args:
        files: the UNet's safetensors files; others are not read.
        scheduler_config: scheduler_config.json of the folder that the UNet belongs to, or None.

    Raises:
        WeightsError: the objective is one that no scheduler of this service can sample.
        OSError: a file cannot be read.
    """
    for path in files:
        if path.suffix.lower() == ".json":
            continue
        stated = _read_file(path)
        if stated.prediction_type is not None or stated.zero_terminal_snr is not None:
            return stated
    return SILENT if scheduler_config is None else _read_scheduler(scheduler_config)


def _read_file(path: Path) -> Prediction:
    names = set()
    for name in read_header(path):
        prefix = next((each for each in _PREFIXES if name.startswith(each)), "")
        names.add(name.removeprefix(prefix))
    for name, formulation in _EDM.items():
        if name in names:
            raise WeightsError(f"{path.name}: trained with {formulation} ({name}), {_UNSUPPORTED}")
    found = sorted(names & STATEMENTS)
    prediction_type: PredictionType | None = "v_prediction" if _V_PREDICTION in names else None
    if prediction_type is None:
        key, prediction_type = _read_metadata(path)
        found += [key] if key else []
    return Prediction(
        prediction_type=prediction_type,
        zero_terminal_snr=True if _ZERO_SNR in names else None,
        origin=f"{path.name} ({', '.join(found)})",
    )


def _read_metadata(path: Path) -> tuple[str, PredictionType | None]:
    """Return the prediction type of a file's metadata and its key; an empty key without one."""
    metadata = read_metadata(path)
    for key in _METADATA_KEYS:
        text = metadata.get(key, "").strip().lower()
        if text in _TYPES:
            return key, _TYPES[text]
        if text:
            raise WeightsError(f"{path.name}: {key} is {text[:40]!r}, {_UNSUPPORTED}")
    return "", None


def _read_scheduler(file: Path) -> Prediction:
    content = read_json("scheduler", file)
    found = content.get("prediction_type")
    class_name = str(content.get("_class_name", ""))
    if class_name.startswith(("EDM", "FlowMatch", "Cosine")):
        raise WeightsError(f"{file.name}: trained for {class_name}, {_UNSUPPORTED}")
    return Prediction(
        prediction_type="v_prediction" if found == "v_prediction" else None,
        zero_terminal_snr=True if content.get(ZERO_SNR) is True else None,
        origin=file.name,
    )
