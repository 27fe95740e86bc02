"""Catalog format: TOML on disk, frozen and validated models in memory."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError
from pydantic import model_validator as pydantic_model_validator

from common.limits import (
    MAX_GUIDANCE,
    MAX_LORA_STRENGTH,
    MAX_SIDE,
    MAX_STEPS,
    MIN_SIDE,
    MIN_STEPS,
    SIDE_STEP,
)
from common.step_window import resolve_window
from models.catalog.frozen import Frozen
from models.catalog.scheduler import SchedulerSpec

SHIPPED = Path(__file__).parent

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_]{0,47}$")]
Source = Annotated[str, StringConstraints(pattern=r"^(file|gs|https|hf):.+$")]
Section = Literal["models", "controlnets", "loras", "depth_estimators"]
SECTIONS: tuple[Section, ...] = ("models", "controlnets", "loras", "depth_estimators")
PICKLE_SUFFIXES = frozenset({".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle"})
SAFETENSORS_SUFFIXES = frozenset({".safetensors", ".sft"})
FILE_SUFFIXES = PICKLE_SUFFIXES | SAFETENSORS_SUFFIXES


def is_weight_file(path: str) -> bool:
    """Return whether a path or source names a weight file by its suffix, in any case."""
    return Path(path).suffix.lower() in FILE_SUFFIXES


class CatalogError(ValueError):
    """Missing, unreadable or invalid catalog; the message names the catalog and the field."""


def _check_window(start: float | None, end: float | None) -> None:
    if start is not None and end is not None and start > end:
        raise ValueError(f"guidance_start: must be at most guidance_end ({end})")


class _Weights(Frozen):
    source: Source
    """`file:` (relative to the catalog's own folder), `gs:`, `https:` or `hf:`."""
    licence: str = Field(min_length=1)
    """Licence text, shown by /models."""
    description: str = ""
    """Description, shown by /models."""


class SpeedSpec(Frozen):
    """Settings of a request's `speed`; what is left out is the variant's default."""

    steps: int | None = Field(None, ge=MIN_STEPS, le=MAX_STEPS)
    """Number of steps."""
    guidance_start: float | None = Field(None, ge=0.0, le=1.0)
    """Share of the steps before guidance begins."""
    guidance_end: float | None = Field(None, ge=0.0, le=1.0)
    """Share of the steps after which guidance ends."""
    enable_deepcache: bool = False
    """Whether every other step reuses the UNet's deep features."""
    decoder: Literal["full", "tiny"] = "full"
    """Decoder; `tiny` only acts where the variant has one."""

    @pydantic_model_validator(mode="after")
    def _check_guidance_window(self) -> SpeedSpec:
        _check_window(self.guidance_start, self.guidance_end)
        return self


@dataclass(frozen=True, slots=True)
class SpeedSettings:
    """Settings of a request's `speed` with the variant's defaults filled in."""

    steps: int
    guidance_start: float
    guidance_end: float
    enable_deepcache: bool
    decoder: Literal["full", "tiny"]


class VariantSpec(_Weights):
    """An SDXL variant: the sources of its weights, and its request defaults.

    A source of a single component is a folder or one safetensors file, whole checkpoints included.
    """

    unet: Source | None = None
    """UNet that replaces the source's; many distilled variants are published as a UNet only."""
    vae: Source | None = None
    """Autoencoder that replaces the source's, e.g. one that does not overflow in float16."""
    text_encoder: Source | None = None
    """First text encoder (CLIP ViT-L) that replaces the source's."""
    text_encoder_2: Source | None = None
    """Second text encoder (OpenCLIP ViT-bigG) that replaces the source's."""
    tokenizer: Source | None = None
    """Tokenizer of the first text encoder; required for a single-file checkpoint."""
    tokenizer_2: Source | None = None
    """Tokenizer of the second text encoder; required for a single-file checkpoint."""
    tiny_decoder: Source | None = None
    """Small decoder (AutoencoderTiny) for `decoder: tiny` and for previews."""
    native_size: int = Field(ge=MIN_SIDE, le=MAX_SIDE, multiple_of=SIDE_STEP)
    """Default width and height of a request, in pixels."""
    steps: int = Field(ge=MIN_STEPS, le=MAX_STEPS)
    """Default number of steps of a request."""
    cfg: float = Field(ge=0.0, le=MAX_GUIDANCE)
    """Default guidance scale of a request; 1 or less disables guidance."""
    guidance_start: float = Field(0.0, ge=0.0, le=1.0)
    """Default share of the steps before guidance begins."""
    guidance_end: float = Field(1.0, ge=0.0, le=1.0)
    """Default share of the steps after which guidance ends; the other steps take one row."""
    scheduler: SchedulerSpec
    """Scheduler that a request's `scheduler: auto` selects."""
    speeds: dict[Literal["balanced", "fast"], SpeedSpec] = Field(default_factory=dict)
    """Faster combinations of settings, which a request's `speed` selects."""
    force_zeros_for_empty_prompt: bool = True
    """Whether an empty negative prompt has zero embeddings, as in SDXL base's training."""

    def at_speed(self, speed: str) -> SpeedSettings:
        """Return the settings of a speed: `exact`, or a key of `speeds`."""
        own = SpeedSpec() if speed == "exact" else self.speeds[speed]  # type: ignore[index]
        start, end = resolve_window(
            own.guidance_start, own.guidance_end, (self.guidance_start, self.guidance_end)
        )
        return SpeedSettings(own.steps or self.steps, start, end, own.enable_deepcache, own.decoder)

    @property
    def is_checkpoint(self) -> bool:
        """Whether the source is a single file rather than a folder of components."""
        return is_weight_file(self.source)

    @pydantic_model_validator(mode="after")
    def _require_tokenizers(self) -> VariantSpec:
        if self.is_checkpoint and (self.tokenizer is None or self.tokenizer_2 is None):
            raise ValueError(
                "tokenizer, tokenizer_2: a single-file checkpoint has none; name their sources"
            )
        return self

    @pydantic_model_validator(mode="after")
    def _check_guidance_window(self) -> VariantSpec:
        _check_window(self.guidance_start, self.guidance_end)
        return self


class ControlNetSpec(_Weights):
    """A depth ControlNet."""


class LoraSpec(_Weights):
    """A LoRA in diffusers' or kohya's safetensors format."""


class DepthEstimatorSpec(_Weights):
    """An estimator of a photograph's depth."""

    loader: Literal["transformers", "controlnet_aux"] = "transformers"
    """Library that loads it. `transformers` takes a depth model's folder; `controlnet_aux` takes
    one safetensors file with that library's tensor names."""
    detector: Literal["midas", "zoe"] | None = None
    """Network of controlnet_aux; required with that loader."""
    gives: Literal["distance", "inverse_depth"] | None = None
    """Output of a transformers model: large is far (distance) or near (inverse_depth)."""

    @pydantic_model_validator(mode="after")
    def _check_loader_fields(self) -> DepthEstimatorSpec:
        own, other = "gives", "detector"
        if self.loader == "controlnet_aux":
            own, other = other, own
            if Path(self.source).suffix.lower() not in SAFETENSORS_SUFFIXES:
                raise ValueError("source: controlnet_aux needs one .safetensors file")
        accepted = {"gives": "distance, inverse_depth", "detector": "midas, zoe"}[own]
        if getattr(self, own) is None:
            raise ValueError(f"{own}: loader {self.loader} needs one of {accepted}")
        if getattr(self, other) is not None:
            raise ValueError(f"{other}: must be left out with loader {self.loader}")
        return self


class EraSpec(Frozen):
    """An era of human history: the LoRAs that give its look, and an example prompt."""

    prompt: str
    """Example for artists and the playground; never added to a request's prompt."""
    loras: dict[
        str,
        Annotated[float, Field(ge=-MAX_LORA_STRENGTH, le=MAX_LORA_STRENGTH, allow_inf_nan=False)],
    ] = Field(default_factory=dict)
    """Strength of each LoRA, by name; negative ones turn its effect round."""


class Catalog(Frozen):
    """Everything that a deployment serves; requests refer to it by name."""

    name: Name
    """Prefix of the entries' names in the model store."""
    default_model: str
    """Default variant of a request."""
    default_controlnet: str
    """Default ControlNet of a request."""
    default_depth_estimator: str | None = None
    """Default depth estimator of a request; unset: the first."""
    models: dict[Name, VariantSpec] = Field(min_length=1)
    """SDXL variants, at least one."""
    controlnets: dict[Name, ControlNetSpec] = Field(min_length=1)
    """Depth ControlNets, at least one."""
    loras: dict[Name, LoraSpec] = Field(default_factory=dict)
    """LoRAs for eras and requests."""
    depth_estimators: dict[Name, DepthEstimatorSpec] = Field(default_factory=dict)
    """Depth estimators for photographs without a depth map."""
    eras: dict[Name, EraSpec] = Field(default_factory=dict)
    """Eras by name."""
    dtype: Literal["float16", "bfloat16"] | None = None
    """Dtype in which the networks are stored; unset: their sources'."""
    file: Path = Field(default=SHIPPED / "demo.toml", exclude=True)

    @pydantic_model_validator(mode="after")
    def _check_references(self) -> Catalog:
        if self.default_model not in self.models:
            raise ValueError(f"default_model: {self.default_model!r} is not among models")
        if self.default_controlnet not in self.controlnets:
            raise ValueError(
                f"default_controlnet: {self.default_controlnet!r} is not among controlnets"
            )
        estimator = self.default_depth_estimator
        if estimator is not None and estimator not in self.depth_estimators:
            raise ValueError(
                f"default_depth_estimator: {estimator!r} is not among depth_estimators"
            )
        for era, spec in self.eras.items():
            if unknown := sorted(set(spec.loras) - set(self.loras)):
                raise ValueError(f"eras.{era}.loras: {', '.join(unknown)} not among loras")
        return self

    @property
    def argument(self) -> str:
        """Value of `--catalog` that selects this catalog, without its folder."""
        return self.name if self.folder == SHIPPED else self.file.name

    @property
    def folder(self) -> Path:
        """Base folder of the catalog's relative `file:` sources."""
        return self.file.parent


def load_catalog(name_or_path: str) -> Catalog:
    """Read and validate a catalog.

    Args:
        name_or_path: `demo`, `experimance`, or the path of a TOML file.

    Raises:
        CatalogError: The file is missing, not TOML, or invalid; the message names each field.
    """
    shipped = sorted(path.stem for path in SHIPPED.glob("*.toml"))
    path = SHIPPED / f"{name_or_path}.toml" if name_or_path in shipped else Path(name_or_path)
    if not path.is_file():
        raise CatalogError(
            f"catalog {name_or_path!r} does not exist: give one of {', '.join(shipped)} "
            "or the path of a TOML file"
        )
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CatalogError(f"catalog {path.name} is not valid TOML: {error}") from error
    content.pop("file", None)
    try:
        return Catalog.model_validate({**content, "file": path.resolve()})
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc']) or 'catalog'}: {item['msg']}"
            for item in error.errors(include_url=False, include_context=False)
        )
        raise CatalogError(f"catalog {path.name} is not valid: {problems}") from error
