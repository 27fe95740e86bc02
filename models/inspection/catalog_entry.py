"""Catalog entries for weight files, as TOML that the catalog's schema accepts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from models.conversion.detect_kind import Place

BASE = "hf://stabilityai/stable-diffusion-xl-base-1.0"
"""SDXL's published components, for the parts that a file lacks."""
_VAE = "hf://madebyollin/sdxl-vae-fp16-fix"
_LICENCE = "unknown: read it where the file was published"
_MAX_NAME = 48
_STANDARD_NAMES = frozenset({"model", "diffusion_pytorch_model", "pytorch_lora_weights"})
_DISTILLED = re.compile(r"lightning|hyper|turbo|lcm|dmd", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a UNet predicts, and whether its schedule ends without signal (arXiv:2305.08891)."""

    is_velocity: bool = False
    is_zero_snr: bool = False


def entry_name(file: Path) -> str:
    """Return a catalog name from a file's name: lowercase letters, digits and `_`."""
    # The libraries' own file names say nothing; the folder's does.
    stem = file.parent.name if file.stem.partition(".")[0] in _STANDARD_NAMES else file.stem
    words = re.sub(r"[^a-z0-9]+", "_", stem.lower()).strip("_")
    return words[:_MAX_NAME].rstrip("_") or "own"


def quote(text: str) -> str:
    """Return a TOML string."""
    # JSON's escapes are TOML's, except that JSON leaves DEL as it is.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def simple_entry(
    section: str, file: Path, training: Mapping[str, str], description: str = ""
) -> str:
    """Return the entry of a LoRA or a ControlNet.

    Args:
        section: `loras` or `controlnets`.
        file: the weight file.
        training: its texts, as `describe_training` returns them.
        description: text for /models, none if empty.
    """
    lines = [
        f"[{section}.{entry_name(file)}]",
        f"source = {quote(f'file:{file.resolve()}')}",
        f"licence = {quote(training.get('licence', _LICENCE))}",
    ]
    if description:
        lines.append(f"description = {quote(description)}")
    return "\n".join(lines)


def model_entry(
    place: Place,
    file: Path,
    training: Mapping[str, str],
    lacking: tuple[str, ...] = (),
    prediction: Prediction | None = None,
    base: str = BASE,
    native_size: int = 1024,
) -> str:
    """Return the entry of a variant that uses a file.

    Args:
        place: `models` for a checkpoint, or the key of the component in the file.
        file: the weight file.
        training: its texts, as `describe_training` returns them.
        lacking: networks that a checkpoint lacks.
        prediction: what the UNet predicts, None for noise.
        base: source of the other networks of a component's variant.
        native_size: width and height of the variant's images, in pixels.
    """
    own = f"file:{file.resolve()}"
    sources = {"source": own if place == "models" else base}
    if place == "models":
        needed = ("tokenizer", "tokenizer_2", *(part for part in lacking if part != "vae"))
        sources |= {part: f"{BASE}/{part}" for part in sorted(needed)}
    if place != "vae" and base == BASE:
        sources["vae"] = _VAE
    if place != "models":
        sources[place] = own
    name = entry_name(file)
    is_distilled = place in {"models", "unet"} and _DISTILLED.search(file.stem) is not None
    prediction = prediction or Prediction()
    options: dict[str, str] = {"timestep_spacing": quote("trailing" if is_distilled else "leading")}
    if not is_distilled:
        options["steps_offset"] = "1"
    if prediction.is_zero_snr:
        options |= {"rescale_betas_zero_snr": "true", "timestep_spacing": quote("trailing")}
        options.pop("steps_offset", None)
    return "\n".join([
        f"[models.{name}]",
        *(f"{key} = {quote(source)}" for key, source in sources.items()),
        f"licence = {quote(training.get('licence', _LICENCE))}",
        f"native_size = {native_size}",
        # Distilled models are published with few steps and little guidance.
        f"steps = {6 if is_distilled else 25}",
        f"cfg = {1.5 if is_distilled else 6.0}",
        "",
        f"[models.{name}.scheduler]",
        'class = "EulerDiscreteScheduler"',
        *(['prediction_type = "v_prediction"'] if prediction.is_velocity else []),
        f"options = {{ {', '.join(f'{key} = {value}' for key, value in options.items())} }}",
    ])  # fmt: skip
