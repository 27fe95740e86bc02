"""Configurations of components, in one spelling: equal networks have equal files.

Exporters differ in what they leave out and what they add. Here every setting is spelt out, with
diffusers' and transformers' defaults (sdxl/defaults.json) for those that are not given. What is no
setting of the network's class is dropped: some names make a library fetch or run something.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from models.safetensors_file import WeightsError

SDXL = Path(__file__).parent / "sdxl"
"""SDXL's own four configurations, `<part>.json`, and the defaults of all classes."""
CONFIG_NAME = "config.json"
PROCESSOR_NAME = "preprocessor_config.json"

_CLASSES = {
    "text_encoder": "clip_text_model",
    "text_encoder_2": "clip_text_model",
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "tiny_decoder": "AutoencoderTiny",
    "controlnet": "ControlNetModel",
}
DEPTH_MODELS = frozenset({"depth_anything", "depth_pro", "dpt", "glpn", "zoedepth"})
"""transformers' kinds of depth model that take a photograph and nothing else."""
_LABEL = "_class_name"
# transformers takes these for any model: what they load, and how, is not a file's to say.
_NEVER = frozenset({
    "architectures", "attn_implementation", "auto_map", "backbone", "backbone_kwargs",
    "custom_pipelines", "dtype", "id2label", "label2id", "name_or_path", "quantization_config",
    "return_dict", "torch_dtype", "transformers_version", "use_kernels", "use_pretrained_backbone",
    "use_timm_backbone",
})  # fmt: skip
_BACKBONES = frozenset({"beit", "bit", "dinov2", "dinov2_with_registers", "swin", "swinv2", "vit"})
_LONGEST = 256
"""Of a setting's text or list."""


def read_config(kind: str, folder: Path) -> dict[str, Any]:
    """A component's configuration, complete and without noise.

    Args:
        kind: a component with weights, such as `unet`.
        folder: where its config.json lies.

    Raises:
        WeightsError: absent, not JSON, or of another kind of network.
    """
    content = read_json(kind, folder / CONFIG_NAME)
    return _estimator(content) if kind == "depth_estimator" else complete(kind, content)


def read_json(kind: str, file: Path) -> dict[str, Any]:
    """A component's file with one JSON object; raises WeightsError like read_config."""
    where = f"{file.parent.name}/{file.name}"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"{kind}: {where} does not exist") from None
    except ValueError as error:
        raise WeightsError(f"{kind}: {where} is not JSON") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{kind}: {where} is not an object")
    if "auto_map" in content:
        raise WeightsError(f"{kind}: {where} asks for code of its own (auto_map), which is not run")
    return content


def complete(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with every default spelt out and without noise; sorted.

    Raises:
        WeightsError: it describes another kind of network, or a UNet that is not SDXL's.
    """
    label = "model_type" if kind.startswith("text_encoder") else _LABEL
    expected = _CLASSES[kind]
    if (found := config.get(label, expected)) != expected:
        raise WeightsError(f"{kind}: its configuration is one of {found}, not {expected}")
    defaults = _defaults()[expected]
    given = {key: value for key, value in config.items() if key in defaults}
    for key, value in given.items():
        _check_plain(kind, key, value)
    made = {**defaults, **given, label: expected}
    for key, default in defaults.items():
        # Older exporters wrote null for a switch that is off.
        if default is False and made[key] is None:
            made[key] = False
    if kind == "unet":
        _check_unet(made)
    return dict(sorted(made.items()))


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write a complete configuration, as config.json."""
    write_json(folder / CONFIG_NAME, config)


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write one JSON object in the one spelling."""
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _estimator(config: Mapping[str, Any]) -> dict[str, Any]:
    """A depth model's configuration without noise; its defaults are its library's."""
    found = config.get("model_type")
    if found not in DEPTH_MODELS:
        accepted = ", ".join(sorted(DEPTH_MODELS))
        raise WeightsError(
            f"depth_estimator: its configuration is one of {found}; accepted: {accepted}"
        )
    return _settings_of(config)


def _settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a model that transformers knows, and of the models within it; sorted."""
    # Takes a second; catalogs without estimators do without.
    from transformers import CONFIG_MAPPING

    if config.get("backbone") is not None and not config.get("backbone_config"):
        raise WeightsError(
            "depth_estimator: its configuration names a backbone that lies elsewhere (backbone); "
            "only one that it describes itself is accepted (backbone_config)"
        )
    known = CONFIG_MAPPING[config["model_type"]]().to_dict().keys() - _NEVER
    kept: dict[str, Any] = {}
    for key in sorted(config.keys() & known):
        value = config[key]
        if isinstance(value, dict) and key.endswith("_config"):
            if value.get("model_type") not in _BACKBONES:
                raise WeightsError(
                    f"depth_estimator: {key} is one of {value.get('model_type')!r}; accepted: "
                    f"{', '.join(sorted(_BACKBONES))}"
                )
            kept[key] = _settings_of(value)
        elif not key.startswith("_"):
            _check_plain("depth_estimator", key, value)
            kept[key] = value
    return kept


def _check_plain(kind: str, key: str, value: object) -> None:
    """Check that a setting is a number, a short text or a list of such."""
    if isinstance(value, list):
        if len(value) > _LONGEST:
            raise WeightsError(f"{kind}: {key} has more than {_LONGEST} values")
        for each in value:
            _check_plain(kind, key, each)
    elif not isinstance(value, str | int | float | None) or len(str(value)) > _LONGEST:
        raise WeightsError(f"{kind}: {key} is no number, short text or list of such")


def _check_unet(config: Mapping[str, Any]) -> None:
    channels = config["in_channels"]
    if channels != 4:
        raise WeightsError(
            f"unet: it takes {channels} channels where 4 are expected; "
            "inpainting and editing models cannot be served"
        )
    if config["addition_embed_type"] != "text_time":
        raise WeightsError("unet: not SDXL's: it takes no picture size (addition_embed_type)")


@cache
def _defaults() -> dict[str, dict[str, Any]]:
    text = (SDXL / "defaults.json").read_text(encoding="utf-8")
    content: dict[str, dict[str, Any]] = json.loads(text)
    return content
