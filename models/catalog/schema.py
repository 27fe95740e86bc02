"""The catalog's format: TOML on disk, frozen and validated models in memory."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic import model_validator as pydantic_model_validator

from models.sources import FILE_SUFFIXES

SHIPPED = Path(__file__).parent

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_]{0,47}$")]
Source = Annotated[str, StringConstraints(pattern=r"^(file|gs|https|hf):.+$")]
SchedulerClass = Literal[
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "LCMScheduler",
    "UniPCMultistepScheduler",
]


class CatalogError(ValueError):
    """A catalog that cannot be found, read or validated; the message says which and where."""


class _Frozen(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, use_attribute_docstrings=True
    )


class SchedulerSpec(_Frozen):
    """A variant's own scheduler, what a request's `scheduler: auto` means.

    The betas and the prediction type also serve every scheduler that a request names.
    """

    class_name: SchedulerClass = Field(alias="class")
    """Of diffusers."""
    beta_start: float = 0.00085
    """Noise of the first step of training."""
    beta_end: float = 0.012
    """Noise of the last."""
    beta_schedule: Literal["linear", "scaled_linear"] = "scaled_linear"
    """How it grows between them."""
    num_train_timesteps: int = Field(default=1000, ge=1)
    """Steps of training."""
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    """What the UNet was trained to predict."""
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Further arguments of the scheduler class, e.g. `timestep_spacing`."""


class _Weights(_Frozen):
    source: Source
    """`file:` (relative to the catalog's own folder), `gs:`, `https:` or `hf:`."""
    licence: str = Field(min_length=1)
    """In words; /models shows it."""
    description: str = ""
    """In words; /models shows it."""


class VariantSpec(_Weights):
    """An SDXL model: where its weights are and what a request gets when it says nothing."""

    unet: Source | None = None
    """A UNet of its own, in place of the source's: how distilled variants are published."""
    vae: Source | None = None
    """An autoencoder in place of the source's, e.g. one that holds in half precision."""
    tokenizer: Source | None = None
    """The first text encoder's tokenizer; a single-file checkpoint has none."""
    tokenizer_2: Source | None = None
    """The second text encoder's."""
    tiny_decoder: Source | None = None
    """A small decoder (AutoencoderTiny) for `decoder: tiny` and for previews."""
    native_size: int = Field(ge=256, le=2048, multiple_of=8)
    """Pixels a side, for requests that name no size."""
    steps: int = Field(ge=1, le=50)
    """For requests that name none."""
    cfg: float = Field(ge=0.0, le=20.0)
    """Guidance scale, for requests that name none; at or under 1 there is no guidance."""
    scheduler: SchedulerSpec
    """What a request's `scheduler: auto` means."""
    force_zeros_for_empty_prompt: bool = True
    """Without a negative prompt, guide away from zero embeddings, as SDXL base was trained."""

    @property
    def is_checkpoint(self) -> bool:
        """Whether the source is a single file rather than a folder of components."""
        return Path(self.source).suffix in FILE_SUFFIXES

    @pydantic_model_validator(mode="after")
    def _single_files_need_tokenizers(self) -> VariantSpec:
        if self.is_checkpoint and (self.tokenizer is None or self.tokenizer_2 is None):
            raise ValueError(
                "tokenizer, tokenizer_2: a single-file checkpoint has none; name their sources"
            )
        return self


class ControlNetSpec(_Weights):
    """A depth ControlNet."""


class LoraSpec(_Weights):
    """A LoRA in diffusers' or kohya's safetensors format."""


class DepthEstimatorSpec(_Weights):
    """What estimates the depth of a photograph."""

    loader: Literal["transformers", "controlnet_aux"] = "transformers"
    """`transformers`: a folder of one of its depth models; `controlnet_aux`: one safetensors file
    with the names of that library's own network."""
    detector: Literal["midas", "zoe"] | None = None
    """Which of controlnet_aux's networks the file is of."""
    gives: Literal["distance", "inverse_depth"] | None = None
    """What a transformers model's numbers mean: large is far, or large is near."""

    @pydantic_model_validator(mode="after")
    def _says_what_it_is(self) -> DepthEstimatorSpec:
        own, other = "gives", "detector"
        if self.loader == "controlnet_aux":
            own, other = other, own
            if Path(self.source).suffix != ".safetensors":
                raise ValueError("source: controlnet_aux needs one .safetensors file")
        accepted = {"gives": "distance, inverse_depth", "detector": "midas, zoe"}[own]
        if getattr(self, own) is None:
            raise ValueError(f"{own}: loader {self.loader} needs one of {accepted}")
        if getattr(self, other) is not None:
            raise ValueError(f"{other}: must be left out with loader {self.loader}")
        return self


class EraSpec(_Frozen):
    """An era of human history: the LoRAs that paint it, and words that describe it."""

    prompt: str
    """An example for artists and the web page; never added to a request's prompt."""
    loras: dict[str, Annotated[float, Field(ge=0.0, le=2.0)]] = Field(default_factory=dict)
    """Strength by LoRA."""


class Catalog(_Frozen):
    """Everything a deployment may serve. Names are what requests use."""

    name: Name
    """Part of the entries' names in the model store."""
    default_model: str
    """For requests that name none."""
    default_controlnet: str
    """For requests that name none."""
    default_depth_estimator: str | None = None
    """For photographs whose request names none; unset: the first."""
    models: dict[Name, VariantSpec] = Field(min_length=1)
    """Variants of SDXL, at least one."""
    controlnets: dict[Name, ControlNetSpec] = Field(min_length=1)
    """ControlNets for depth, at least one."""
    loras: dict[Name, LoraSpec] = Field(default_factory=dict)
    """LoRAs, for eras and for requests."""
    depth_estimators: dict[Name, DepthEstimatorSpec] = Field(default_factory=dict)
    """For photographs without a depth map."""
    eras: dict[Name, EraSpec] = Field(default_factory=dict)
    """Looks by name."""
    dtype: Literal["float16", "bfloat16"] | None = None
    """Precision in which the networks are stored; unset: as their sources have them."""
    file: Path = Field(default=SHIPPED / "demo.toml", exclude=True)

    @pydantic_model_validator(mode="after")
    def _references_exist(self) -> Catalog:
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
        """What `--catalog` takes for this one, its folder left out."""
        return self.name if self.folder == SHIPPED else self.file.name

    @property
    def folder(self) -> Path:
        """Where the catalog's relative `file:` sources start."""
        return self.file.parent


def load_catalog(name_or_path: str) -> Catalog:
    """Read and validate a catalog.

    Args:
        name_or_path: `demo`, `experimance`, or the path of a TOML file.

    Raises:
        CatalogError: no such catalog, not TOML, or not valid; the message names each field.
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
