"""Canonical configurations of components: equal networks have equal files.

Exporters omit and add different settings. The canonical form has every setting, with the defaults
of diffusers and transformers (sdxl/defaults.json) for missing ones. Unknown settings are dropped,
because some of them make a library download or execute code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from models.conversion.safetensors_io import WeightsError

SDXL = Path(__file__).parent / "sdxl"
"""Folder of SDXL's four configurations, `<part>.json`, and the defaults of all classes."""
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
"""Model types of transformers that estimate depth from a single image."""
_LABEL = "_class_name"
_TINY_ENCODER = ("encoder_block_out_channels", "num_encoder_blocks")
UNET_TEXT_WIDTHS = {768: "Stable Diffusion 1.5", 1024: "Stable Diffusion 2"}
"""Models other than SDXL by the width of the text that their UNet reads."""
# Generic transformers settings that select code, dtype or downloads; a file must not set them.
_DROPPED_SETTINGS = frozenset({
    "architectures", "attn_implementation", "auto_map", "backbone", "backbone_kwargs",
    "custom_pipelines", "dtype", "id2label", "label2id", "name_or_path", "quantization_config",
    "return_dict", "torch_dtype", "transformers_version", "use_kernels", "use_pretrained_backbone",
    "use_timm_backbone",
})  # fmt: skip
_BACKBONES = frozenset({"beit", "bit", "dinov2", "dinov2_with_registers", "swin", "swinv2", "vit"})
_MAX_LENGTH = 256
"""Maximum number of characters of a setting's text, and of elements of its list."""


def read_config(kind: str, folder: Path) -> dict[str, Any]:
    """Return a component's canonical configuration.

    Args:
        kind: Kind of a component with weights, such as `unet`.
        folder: Folder of its config.json.

    Raises:
        WeightsError: The file is missing, not JSON, or describes another kind of network.
    """
    content = read_json(kind, folder / CONFIG_NAME)
    return (
        _canonicalize_estimator(content)
        if kind == "depth_estimator"
        else canonicalize_config(kind, content)
    )


def read_json(kind: str, file: Path) -> dict[str, Any]:
    """Return the JSON object in a component's file.

    Raises:
        WeightsError: The file is missing, not a JSON object, or requires custom code.
    """
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
        raise WeightsError(f"{kind}: {where} requires custom code (auto_map), which is not run")
    return content


def canonicalize_config(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration with all defaults and without unknown settings, sorted by key.

    Raises:
        WeightsError: It describes another kind of network, or a UNet that is not SDXL's.
    """
    label = "model_type" if kind.startswith("text_encoder") else _LABEL
    expected = _CLASSES[kind]
    if (found := config.get(label, expected)) != expected:
        raise WeightsError(f"{kind}: its configuration is for {found}, not {expected}")
    defaults = _defaults()[expected]
    given = {key: value for key, value in config.items() if key in defaults}
    for key, value in given.items():
        _check_plain(kind, key, value)
    complete = {**defaults, **given, label: expected}
    for key, default in defaults.items():
        # Older exporters wrote null for False.
        if default is False and complete[key] is None:
            complete[key] = False
    if kind == "unet":
        _check_unet(complete)
    if kind == "vae":
        _check_statistics(complete)
    if kind == "tiny_decoder":
        # Its encoder is not stored.
        complete |= {key: defaults[key] for key in _TINY_ENCODER}
    return dict(sorted(complete.items()))


def check_variant(configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that the networks of a variant fit together.

    Args:
        configs: canonical configuration of each component with weights, by kind.

    Raises:
        WeightsError: one network's output has another size than the next one's input.
    """
    unet, first, second = configs["unet"], configs["text_encoder"], configs["text_encoder_2"]
    text = first["hidden_size"] + second["hidden_size"]
    sizes = 6 * unet["addition_time_embed_dim"]
    for what, taken, given, by in (
        ("text of width", unet["cross_attention_dim"], text, "text encoders give"),
        ("pooled text of width", unet["projection_class_embeddings_input_dim"] - sizes,
         second["projection_dim"], "second text encoder gives"),
        ("latents of channels", unet["in_channels"], configs["vae"]["latent_channels"],
         "autoencoder has"),
    ):  # fmt: skip
        if taken != given:
            raise WeightsError(
                f"the UNet takes {what} {taken}, and the {by} {given}; give components of one model"
            )
    tiny = configs.get("tiny_decoder")
    if tiny is not None and tiny["latent_channels"] != unet["out_channels"]:
        raise WeightsError(
            f"the UNet gives {unet['out_channels']} latent channels, and the tiny decoder takes "
            f"{tiny['latent_channels']}; give the tiny decoder of SDXL"
        )


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write a canonical configuration as config.json."""
    write_json(folder / CONFIG_NAME, config)


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object in canonical form: indented, keys sorted."""
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _canonicalize_estimator(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a depth model's configuration without unknown settings; defaults stay implicit."""
    found = config.get("model_type")
    if found not in DEPTH_MODELS:
        accepted = ", ".join(sorted(DEPTH_MODELS))
        raise WeightsError(
            f"depth_estimator: its configuration is for {found}; accepted: {accepted}"
        )
    return _read_settings(config)


def _read_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a transformers model's known settings and those of nested models, sorted by key."""
    # The import takes 1 s; only catalogs with estimators need it.
    from transformers import CONFIG_MAPPING

    if config.get("backbone") is not None and not config.get("backbone_config"):
        raise WeightsError(
            "depth_estimator: its configuration names an external backbone (backbone); "
            "only an inline description (backbone_config) is accepted"
        )
    known = CONFIG_MAPPING[config["model_type"]]().to_dict().keys() - _DROPPED_SETTINGS
    kept: dict[str, Any] = {}
    for key in sorted(config.keys() & known):
        value = config[key]
        if isinstance(value, dict) and key.endswith("_config"):
            if value.get("model_type") not in _BACKBONES:
                raise WeightsError(
                    f"depth_estimator: {key} is for {value.get('model_type')!r}; accepted: "
                    f"{', '.join(sorted(_BACKBONES))}"
                )
            kept[key] = _read_settings(value)
        elif not key.startswith("_"):
            _check_plain("depth_estimator", key, value)
            kept[key] = value
    return kept


def _check_plain(kind: str, key: str, value: object) -> None:
    """Raise WeightsError unless a setting is a number, a short text or a list of those."""
    if isinstance(value, list):
        if len(value) > _MAX_LENGTH:
            raise WeightsError(f"{kind}: {key} has more than {_MAX_LENGTH} values")
        for each in value:
            _check_plain(kind, key, each)
    elif not isinstance(value, str | int | float | None) or len(str(value)) > _MAX_LENGTH:
        raise WeightsError(f"{kind}: {key} is no number, short text or list of such")


def _check_statistics(config: Mapping[str, Any]) -> None:
    """Raise WeightsError unless the latents' statistics are absent, or one number per channel."""
    for key in ("latents_mean", "latents_std"):
        numbers = config[key]
        if numbers is None:
            continue
        is_number = isinstance(numbers, list) and all(
            type(each) in {int, float} for each in numbers
        )
        if not is_number or len(numbers) != config["latent_channels"]:
            raise WeightsError(
                f"vae: {key} has not one number for each of {config['latent_channels']} channels"
            )
    if config["latents_std"] is not None and 0 in config["latents_std"]:
        raise WeightsError("vae: latents_std has a 0")


def _check_unet(config: Mapping[str, Any]) -> None:
    channels = config["in_channels"]
    if channels != 4:
        raise WeightsError(
            f"unet: it takes {channels} channels where 4 are expected; "
            "inpainting and editing models cannot be served"
        )
    if config["addition_embed_type"] != "text_time":
        width = config["cross_attention_dim"]
        model = UNET_TEXT_WIDTHS.get(width) if isinstance(width, int) else None
        kind = f"a UNet of {model}, " if model else ""
        raise WeightsError(
            f"unet: {kind}not SDXL's: it takes no image size (addition_embed_type); "
            "give a UNet of SDXL"
        )


@cache
def _defaults() -> dict[str, dict[str, Any]]:
    text = (SDXL / "defaults.json").read_text(encoding="utf-8")
    content: dict[str, dict[str, Any]] = json.loads(text)
    return content
