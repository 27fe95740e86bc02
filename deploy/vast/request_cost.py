"""Cost of a request in TFLOP, for the platform's autoscaling.

The platform adds up the cost of incoming and of completed requests. The unit is free, but the cost
must be proportional to GPU seconds, and these are proportional to operations. Each network costs a
polynomial of second degree in the image's pixels: convolutions and projections are linear in them,
self-attention is quadratic. The coefficients are counted, not timed (costs.toml, `python -m
benchmarks.workload --write`).

The cost leaves out LoRAs, because their ranks are unknown here: two of the demo's add 9 %. It also
leaves out depth estimation of a photograph.

The module needs only the standard library, because the worker's environment has no torch.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from common.limits import MAX_GUIDANCE, MAX_IMAGES, MAX_SIDE, MAX_STEPS, MIN_SIDE, MIN_STEPS
from common.step_window import is_in_window, resolve_window

COSTS = Path(__file__).with_name("costs.toml")
CATALOGS = Path(__file__).parents[2] / "models" / "catalog"

# The service's validation bounds: requests beyond them are rejected and cost nothing.
_STEPS, _GUIDANCE = (MIN_STEPS, MAX_STEPS), (0.0, MAX_GUIDANCE)
_IMAGES, _SIDE = (1, MAX_IMAGES), (MIN_SIDE, MAX_SIDE)
_SHARE = (0.0, 1.0)

Default = TypeVar("Default", float, None)
# About 75 tokens of English, the chunk size of the text encoders.
_CHUNK_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Polynomial:
    """TFLOP of one evaluation: constant + linear * megapixels + quadratic * megapixels^2."""

    constant: float
    linear: float
    quadratic: float

    def at(self, megapixels: float) -> float:
        """Return the value, in TFLOP, for an image of `megapixels` (1e6 pixels)."""
        return self.constant + megapixels * (self.linear + megapixels * self.quadratic)


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs of the networks of one architecture, in TFLOP.

    Attributes:
        unet: a full step, per batch row.
        shallow: a step that reuses deep features, per batch row.
        context: addition of each further chunk of text to the UNet's step, per batch row.
        hint: the ControlNet's conditioning image, per request.
        encoder: the encoder of an init image, per request.
        text: the text encoders, per chunk.
        controlnets: a step of a ControlNet, per batch row, by size.
        decoders: a decoder, per image, by name.
    """

    unet: Polynomial
    shallow: Polynomial
    context: Polynomial
    controlnets: Mapping[str, Polynomial]
    hint: Polynomial
    encoder: Polynomial
    decoders: Mapping[str, Polynomial]
    text: float

    @classmethod
    def read(cls, architecture: str, file: Path = COSTS) -> Self:
        """Read the coefficients of `sdxl`, or of the demo's small networks (`demo`)."""
        table = tomllib.loads(file.read_text(encoding="utf-8"))[architecture]
        several = {
            kind: {name: Polynomial(*terms) for name, terms in table[kind].items()}
            for kind in ("controlnets", "decoders")
        }
        return cls(
            unet=Polynomial(*table["unet"]),
            shallow=Polynomial(*table["shallow"]),
            context=Polynomial(*table["context"]),
            hint=Polynomial(*table["hint"]),
            encoder=Polynomial(*table["encoder"]),
            text=table["text"],
            **several,
        )


class Workload:
    """Cost of requests on one catalog, whose defaults replace missing fields."""

    def __init__(self, catalog: Mapping[str, Any], costs: Costs) -> None:
        self._models: Mapping[str, Mapping[str, Any]] = catalog["models"]
        self._default_model: str = catalog["default_model"]
        self._default_controlnet: str = catalog["default_controlnet"]
        self._costs = costs

    @classmethod
    def of_catalog(cls, name: str) -> Self:
        """Read a catalog by its name, or by the path of a file.

        Every catalog except the demo uses SDXL's architecture (arXiv:2307.01952); the import checks
        that.

        Raises:
            OSError: The file cannot be read.
            tomllib.TOMLDecodeError: The file is not TOML.
            KeyError: A required key is missing.
        """
        path = Path(name) if name.endswith(".toml") else CATALOGS / f"{name}.toml"
        catalog = tomllib.loads(path.read_text(encoding="utf-8"))
        return cls(catalog, Costs.read("demo" if catalog["name"] == "demo" else "sdxl"))

    @property
    def native_size(self) -> int:
        """Side of the default variant's images, in pixels."""
        return int(self._models[self._default_model]["native_size"])

    def tflop(self, payload: Mapping[str, Any]) -> float:
        """Return the TFLOP of a /generate body; defaults replace missing and non-numeric fields."""
        name = payload.get("model")
        model = self._models.get(name if isinstance(name, str) else "")
        model = self._models[self._default_model] if model is None else model
        model = _at_speed(payload, model)
        steps = _steps_done(payload, int(_number(payload, "steps", model["steps"], _STEPS)))
        guided = _guided_steps(payload, model, steps)
        side = model["native_size"]
        width = _number(payload, "width", side, _SIDE)
        height = _number(payload, "height", side, _SIDE)
        megapixels = width * height / 1e6
        texts = [payload.get("prompt")]
        if _is_guided(payload, model):
            texts.append(payload.get("negative_prompt"))
        chunks = [1 + len(text) // _CHUNK_CHARACTERS for text in texts if isinstance(text, str)]
        # The pipeline pads the shorter text to the length of the longer.
        further = max(chunks, default=1) - 1
        step = self._costs.unet.at(megapixels) + further * self._costs.context.at(megapixels)
        cached = _cached_steps(payload, model, steps, guided)
        acting = _acting_steps(payload, steps) - cached

        def rows(chosen: Set[int]) -> int:
            return len(chosen) + len(chosen & guided)

        denoising = (
            rows(set(range(steps)) - cached) * step
            + rows(cached) * self._costs.shallow.at(megapixels)
            + rows(acting) * self._controlnet(payload).at(megapixels)
        )
        decoder = payload.get("decoder") or model.get("decoder")
        decoders = self._costs.decoders
        decoding = decoders["tiny" if decoder == "tiny" else "full"].at(megapixels)
        pictures = int(_number(payload, "num_images", 1, _IMAGES))
        once = self._costs.hint.at(megapixels) + self._costs.text * sum(chunks)
        if _starts_from_picture(payload):
            once += self._costs.encoder.at(megapixels)
        return once + pictures * (denoising + decoding)

    def _controlnet(self, payload: Mapping[str, Any]) -> Polynomial:
        """Return the cost by name: `small` in the name means small, else the UNet's depth."""
        name = payload.get("controlnet")
        name = name if isinstance(name, str) else self._default_controlnet
        return self._costs.controlnets["small" if "small" in name else "full"]


def _at_speed(payload: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's defaults at the body's speed."""
    speed = payload.get("speed")
    return {**model, **model.get("speeds", {}).get(speed if isinstance(speed, str) else "", {})}


def _starts_from_picture(payload: Mapping[str, Any]) -> bool:
    return payload.get("strength") is not None and payload.get("image_b64") is not None


def _steps_done(payload: Mapping[str, Any], steps: int) -> int:
    """Return the steps of a request; image-to-image runs a fraction, as in common/protocol.py."""
    if not _starts_from_picture(payload):
        return steps
    return max(1, int(steps * _number(payload, "strength", 1.0, (0.0, 1.0))))


def _follows_depth(payload: Mapping[str, Any]) -> bool:
    """Return whether the request has a depth map; with an init image it is optional."""
    if not _starts_from_picture(payload):
        return True
    named = any(payload.get(name) is not None for name in ("depth_map_b64", "depth_estimator"))
    return named or payload.get("mock_depth") is True


def _is_guided(payload: Mapping[str, Any], model: Mapping[str, Any]) -> bool:
    return _number(payload, "cfg", model["cfg"], _GUIDANCE) > 1.0


def _guided_steps(payload: Mapping[str, Any], model: Mapping[str, Any], steps: int) -> set[int]:
    """Return the steps with guidance, which take two rows."""
    if not _is_guided(payload, model):
        return set()
    default = model.get("guidance_start", 0.0), model.get("guidance_end", 1.0)
    start = _number(payload, "guidance_start", None, _SHARE)
    return _window(
        steps, *resolve_window(start, _number(payload, "guidance_end", None, _SHARE), default)
    )


def _cached_steps(
    payload: Mapping[str, Any], model: Mapping[str, Any], steps: int, guided: Set[int]
) -> set[int]:
    """Return the steps that reuse deep features, as in runners/diffusion/sample.py."""
    requested = payload.get("enable_deepcache")
    if (model.get("enable_deepcache") if requested is None else requested) is not True:
        return set()
    return {step for step in range(1, steps - 1, 2) if step not in guided or step - 1 in guided}


def _acting_steps(payload: Mapping[str, Any], steps: int) -> set[int]:
    """Return the steps with ControlNet guidance."""
    strength = _number(payload, "controlnet_strength", 0.8, (0.0, 2.0))
    if strength == 0 or not _follows_depth(payload):
        return set()
    start = _number(payload, "control_guidance_start", 0.0, _SHARE)
    end = _number(payload, "control_guidance_end", 1.0, _SHARE)
    return _window(steps, start, end)


def _window(steps: int, start: float, end: float) -> set[int]:
    return {step for step in range(steps) if is_in_window(step, steps, start, end)}


def _number(
    payload: Mapping[str, Any], field: str, default: Default, bounds: tuple[float, float]
) -> float | Default:
    value = payload.get(field)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return default
    return min(max(value, bounds[0]), bounds[1])
