"""Request models: every field with its bounds."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from common.limits import (
    MAX_BODY_BYTES,
    MAX_GUIDANCE,
    MAX_IMAGES,
    MAX_LORA_STRENGTH,
    MAX_LORAS,
    MAX_PROMPT,
    MAX_SEED,
    MAX_SIDE,
    MAX_STEPS,
    MIN_SIDE,
    MIN_STEPS,
    SIDE_STEP,
)
from common.prompt_syntax import parse_prompt
from common.scheduler_table import SchedulerName

REQUEST_ID = r"[A-Za-z0-9._-]{1,64}"
RequestId = Annotated[str, StringConstraints(pattern=f"^{REQUEST_ID}$")]
CatalogName = Annotated[str, StringConstraints(min_length=1, max_length=64)]


def _reject_bool_and_str(value: Any) -> Any:
    # pydantic would accept JSON's true as 1, and "5" as 5.
    if isinstance(value, bool | str):
        raise ValueError("Input should be a valid number")
    return value


# Placed after the bounds: in front of them, the JSON schema would lack the names of the bounds.
_NUMBER = BeforeValidator(_reject_bool_and_str)

Fraction = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False), _NUMBER]
Strength = Annotated[float, Field(ge=0.0, le=2.0, allow_inf_nan=False), _NUMBER]
LoraStrength = Annotated[
    float, Field(ge=-MAX_LORA_STRENGTH, le=MAX_LORA_STRENGTH, allow_inf_nan=False), _NUMBER
]
ImageSide = Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE, multiple_of=SIDE_STEP), _NUMBER]
Steps = Annotated[int, Field(ge=MIN_STEPS, le=MAX_STEPS), _NUMBER]
GuidanceScale = Annotated[float, Field(ge=0.0, le=MAX_GUIDANCE, allow_inf_nan=False), _NUMBER]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED), _NUMBER]
Milliseconds = Annotated[int, Field(ge=1, le=86_400_000), _NUMBER]


class LoraChoice(BaseModel):
    """LoRA of the catalog and its strength."""

    model_config = ConfigDict(extra="forbid")

    name: CatalogName = Field(description="a LoRA of the catalog", examples=["drone"])
    strength: LoraStrength = Field(1.0, description="-5 to 5", examples=[0.8])


class GenerateRequest(BaseModel):
    """Depth map, prompt and generation parameters."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(
        min_length=1,
        max_length=MAX_PROMPT,
        description="subject of the image; long prompts are encoded completely; `(phrase:1.3)` "
        "weights a phrase, 0 to 2",
        examples=["aerial photography, untouched wilderness, late afternoon sunlight"],
    )
    negative_prompt: str | None = Field(
        None, max_length=MAX_PROMPT, description="content to avoid", examples=["blurry, cartoon"]
    )
    depth_map_b64: str | None = Field(
        None,
        max_length=MAX_BODY_BYTES,
        description="base64 or data URL of a PNG, JPEG, WebP or TIFF; 8- or 16-bit grey; "
        "near = bright; resized to the output size",
    )
    mock_depth: bool = Field(
        False, description="a radial gradient instead of a depth map", examples=[True]
    )
    image_b64: str | None = Field(
        None,
        max_length=MAX_BODY_BYTES,
        description="base64 or data URL of a photograph: the init image with `strength`, else the "
        "source of the depth estimate; resized to the output size",
    )
    depth_estimator: CatalogName | None = Field(
        None,
        description="estimator for the depth of image_b64; the catalog's default if neither a "
        "depth map nor strength is given",
    )
    strength: Fraction | None = Field(
        None,
        description="image-to-image: share of image_b64 that is generated anew, 0 to 1; this share "
        "of the steps runs, at least one",
        examples=[0.6],
    )
    invert_depth: bool = Field(False, description="swap near and far")
    normalize_depth: bool = Field(False, description="stretch depth values to the full range")
    return_depth: bool = Field(
        False, description="return the depth map that was used (JSON responses only)"
    )
    model: CatalogName | None = Field(
        None, description="variant; default: the catalog's", examples=["base"]
    )
    controlnet: CatalogName | None = Field(
        None, description="ControlNet; default: the catalog's", examples=["sdxl_small"]
    )
    era: CatalogName | None = Field(
        None, description="era that selects the LoRAs and their strengths", examples=["wilderness"]
    )
    loras: Annotated[list[LoraChoice], Field(max_length=MAX_LORAS)] | None = Field(
        None, description="at most 4; replaces the era's LoRAs, even if empty"
    )
    lora_strength: LoraStrength = Field(1.0, description="factor for every LoRA strength, -5 to 5")
    steps: Steps | None = Field(None, description="1 to 50; default: the variant's", examples=[20])
    cfg: GuidanceScale | None = Field(
        None, description="guidance scale, 0 to 20; no guidance at or below 1", examples=[3.0]
    )
    guidance_start: Fraction | None = Field(
        None, description="share of steps before guidance begins; default: the variant's"
    )
    guidance_end: Fraction | None = Field(
        None,
        description="share of steps after which guidance ends; the other steps take half the time",
        examples=[0.5],
    )
    seed: Seed | None = Field(
        None, description="0 to 2^63-1; random if omitted, and reported", examples=[42]
    )
    num_images: Annotated[int, Field(ge=1, le=MAX_IMAGES), _NUMBER] = Field(
        1, description="1 to 4, with seeds seed, seed+1, …"
    )
    controlnet_strength: Strength = Field(0.8, description="weight of the depth control, 0 to 2")
    control_guidance_start: Fraction = Field(0.0, description="share of steps before control acts")
    control_guidance_end: Fraction = Field(1.0, description="share of steps after which it ends")
    scheduler: SchedulerName = Field("auto", description="`auto` selects the variant's own")
    use_karras_sigmas: bool | None = Field(None, description="overrides the scheduler's setting")
    width: ImageSide | None = Field(
        None, description="256 to 2048 pixels, multiple of 8; default: native size", examples=[256]
    )
    height: ImageSide | None = Field(
        None, description="256 to 2048 pixels, multiple of 8; default: native size", examples=[256]
    )
    speed: Literal["exact", "balanced", "fast"] = Field(
        "exact",
        description="combination of guidance window, DeepCache, decoder and steps that the variant "
        "has for this speed; fields of the request win over it, and the response's metadata has "
        "what was used",
    )
    decoder: Literal["full", "tiny"] | None = Field(
        None,
        description="`tiny` selects the variant's small decoder: faster, less exact; default: "
        "`full`, or the speed's",
        examples=["tiny"],
    )
    enable_deepcache: bool | None = Field(
        None,
        description="every other step reuses the UNet's deep features: faster, less exact; "
        "default: false, or the speed's",
    )
    output_format: Literal["jpeg", "png", "webp"] = Field("jpeg", description="image format")
    quality: Annotated[int, Field(ge=1, le=100), _NUMBER] = Field(90, description="JPEG and WebP")
    use_jpeg: bool | None = Field(
        None,
        description="older clients: true = jpeg, false = png; output_format png or webp wins",
    )
    embed_parameters: bool = Field(True, description="write the parameters into the image file")
    embed_inputs: bool = Field(
        False,
        description="PNG only: also write the depth map that was used and the init image into the "
        "file, so that the file alone suffices to generate the image again",
    )
    request_id: RequestId | None = Field(
        None,
        description="id chosen by the client; an equal request with the id of an unfinished one "
        "joins it, an unequal one is refused with 409",
    )
    session: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = Field(
        None, description="latest wins: a new request supersedes the session's others"
    )
    deadline_ms: Milliseconds | None = Field(
        None, description="milliseconds from arrival; late requests are dropped, not computed"
    )

    @field_validator("prompt", "negative_prompt", "session")
    @classmethod
    def _reject_control_characters(cls, text: str | None) -> str | None:
        if text is not None and any(
            unicodedata.category(char) in {"Cc", "Cs"} and char not in "\t\n\r" for char in text
        ):
            raise ValueError("must not contain control characters")
        return text

    @field_validator("prompt", "negative_prompt")
    @classmethod
    def _check_prompt_weights(cls, text: str | None) -> str | None:
        if text is not None:
            parse_prompt(text)
        return text

    @field_validator("prompt")
    @classmethod
    def _reject_blank(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("must not be blank")
        return text

    @model_validator(mode="after")
    def _validate_combinations(self) -> GenerateRequest:
        for prefix in ("control_guidance", "guidance"):
            start, end = getattr(self, f"{prefix}_start"), getattr(self, f"{prefix}_end")
            if start is not None and end is not None and start > end:
                raise ValueError(f"{prefix}_start: must be at most {prefix}_end ({end})")
        if self.depth_map_b64 is not None and self.mock_depth:
            raise ValueError("mock_depth: must be false when depth_map_b64 is given")
        _check_image_fields(self)
        return self

    @property
    def effective_output_format(self) -> Literal["jpeg", "png", "webp"]:
        """Output format after applying `use_jpeg`, the flag of older clients."""
        if self.use_jpeg is None or self.output_format != "jpeg":
            return self.output_format
        return "jpeg" if self.use_jpeg else "png"


def _check_image_fields(request: GenerateRequest) -> None:
    """Check that each given image has exactly one use, and each use its image.

    Raises:
        ValueError: an image is missing or unused; the message starts with the field.
    """
    has_depth_map = request.depth_map_b64 is not None or request.mock_depth
    if request.image_b64 is None:
        for name in ("strength", "depth_estimator"):
            if getattr(request, name) is not None:
                raise ValueError(f"{name}: needs image_b64")
        if not has_depth_map:
            raise ValueError("depth_map_b64: one of depth_map_b64, mock_depth, image_b64 is needed")
    elif has_depth_map and request.depth_estimator is not None:
        raise ValueError("depth_estimator: must be left out where a depth map is given")
    elif has_depth_map and request.strength is None:
        raise ValueError("image_b64: beside a depth map it needs strength")


class EstimateRequest(BaseModel):
    """Photograph and options of a depth estimate."""

    model_config = ConfigDict(extra="forbid")

    image_b64: str = Field(
        max_length=MAX_BODY_BYTES,
        description="base64 or data URL of a PNG, JPEG, WebP or TIFF",
    )
    depth_estimator: CatalogName | None = Field(
        None, description="estimator of the catalog; default: the catalog's"
    )
    width: ImageSide | None = Field(
        None,
        description="width of the map: 256 to 2048 pixels, multiple of 8; default: the "
        "photograph's width, or the one that keeps its proportions, clamped to these bounds",
        examples=[256],
    )
    height: ImageSide | None = Field(None, description="of the map, likewise", examples=[256])
    invert_depth: bool = Field(False, description="swap near and far")
    normalize_depth: bool = Field(False, description="stretch depth values to the full range")


class CancelRequest(BaseModel):
    """Target of a cancellation: exactly one of the fields."""

    model_config = ConfigDict(extra="forbid")

    request_id: RequestId | None = Field(None, description="one request", examples=["table-7"])
    session: str | None = Field(None, description="all requests of a session", max_length=128)
    all: bool = Field(False, description="all requests")

    @model_validator(mode="after")
    def _check_exactly_one(self) -> CancelRequest:
        if sum((self.request_id is not None, self.session is not None, self.all)) != 1:
            raise ValueError("request_id: exactly one of request_id, session, all is needed")
        return self


class LoadRequest(BaseModel):
    """Weights to load or unload.

    The query parameters `model_name` and `controlnet_id` have the same effect.
    """

    model_config = ConfigDict(extra="forbid")

    model: CatalogName | None = Field(None, description="variant of the catalog", examples=["base"])
    controlnet: CatalogName | None = Field(
        None, description="ControlNet of the catalog", examples=["sdxl_small"]
    )
