"""What clients may send: every field with its bounds."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from runners.prompt_weights import parse_prompt

REQUEST_ID = r"[A-Za-z0-9._-]{1,64}"
_MAX_PICTURE_TEXT = 32 * 2**20

SchedulerName = Literal[
    "auto", "euler", "euler_a", "dpm_sde", "dpm_multi", "dpm_single", "ddim", "lcm", "unipc"
]
SCHEDULERS: tuple[str, ...] = get_args(SchedulerName)
RequestId = Annotated[str, StringConstraints(pattern=f"^{REQUEST_ID}$")]
CatalogName = Annotated[str, StringConstraints(min_length=1, max_length=64)]


def _number(value: Any) -> Any:
    # JSON's true would otherwise count as 1, and "5" as 5.
    if isinstance(value, bool | str):
        raise ValueError("Input should be a valid number")
    return value


Integer = Annotated[int, BeforeValidator(_number)]
Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Share = Annotated[Number, Field(ge=0.0, le=1.0)]
Strength = Annotated[Number, Field(ge=0.0, le=2.0)]
Side = Annotated[Integer, Field(ge=256, le=2048, multiple_of=8)]


class LoraChoice(BaseModel):
    """A LoRA of the catalog and how strongly it acts."""

    model_config = ConfigDict(extra="forbid")

    name: CatalogName = Field(description="a LoRA of the catalog", examples=["drone"])
    strength: Strength = Field(1.0, description="0 to 2", examples=[0.8])


class GenerateRequest(BaseModel):
    """A depth map and a prompt, and how to paint them."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(
        min_length=1,
        max_length=2000,
        description="what to paint; long prompts are encoded whole; `(phrase:1.3)` weighs a "
        "phrase, 0 to 2",
        examples=["aerial photography, untouched wilderness, late afternoon sunlight"],
    )
    negative_prompt: str | None = Field(
        None, max_length=2000, description="what to avoid", examples=["blurry, cartoon"]
    )
    depth_map_b64: str | None = Field(
        None,
        max_length=_MAX_PICTURE_TEXT,
        description="base64 or data URL of a PNG, JPEG, WebP or TIFF; 8- or 16-bit grey; "
        "near = bright; resized to the output's size",
    )
    mock_depth: bool = Field(
        False, description="a radial gradient instead of a depth map", examples=[True]
    )
    image_b64: str | None = Field(
        None,
        max_length=_MAX_PICTURE_TEXT,
        description="base64 or data URL of a photograph: with `strength` the picture to start "
        "from, else one whose depth is estimated; resized to the output's size",
    )
    depth_estimator: CatalogName | None = Field(
        None,
        description="estimates the depth of image_b64; the catalog's default where neither a depth "
        "map nor strength is given",
    )
    strength: Share | None = Field(
        None,
        description="image-to-image: how much of image_b64 is painted anew, 0 to 1; of the steps "
        "this share is done, at least one",
        examples=[0.6],
    )
    invert_depth: bool = Field(False, description="turn near and far round")
    normalize_depth: bool = Field(False, description="stretch depth over the whole range")
    return_depth: bool = Field(
        False, description="answer with the depth map that was used (JSON answers only)"
    )
    model: CatalogName | None = Field(
        None, description="a variant of the catalog; the catalog's default", examples=["base"]
    )
    controlnet: CatalogName | None = Field(
        None, description="a ControlNet of the catalog; its default", examples=["sdxl_small"]
    )
    era: CatalogName | None = Field(
        None, description="sets the LoRAs and their strengths", examples=["wilderness"]
    )
    loras: Annotated[list[LoraChoice], Field(max_length=4)] | None = Field(
        None, description="at most 4; replaces the era's set when given, an empty list too"
    )
    lora_strength: Strength = Field(1.0, description="multiplies every LoRA strength")
    steps: Annotated[Integer, Field(ge=1, le=50)] | None = Field(
        None, description="1 to 50; the variant's default", examples=[20]
    )
    cfg: Annotated[Number, Field(ge=0.0, le=20.0)] | None = Field(
        None, description="guidance scale, 0 to 20; at or under 1 no guidance", examples=[3.0]
    )
    seed: Annotated[Integer, Field(ge=0, le=2**63 - 1)] | None = Field(
        None, description="0 to 2^63-1; random and reported when not given", examples=[42]
    )
    num_images: Annotated[Integer, Field(ge=1, le=4)] = Field(
        1, description="1 to 4, with seeds seed, seed+1, …"
    )
    controlnet_strength: Strength = Field(0.8, description="how strictly depth is followed")
    control_guidance_start: Share = Field(0.0, description="share of steps before control acts")
    control_guidance_end: Share = Field(1.0, description="share of steps after which it ends")
    scheduler: SchedulerName = Field("auto", description="`auto` is the variant's own")
    use_karras_sigmas: bool | None = Field(None, description="overrides the scheduler's setting")
    width: Side | None = Field(
        None, description="256 to 2048, multiple of 8; the variant's native size", examples=[256]
    )
    height: Side | None = Field(
        None, description="256 to 2048, multiple of 8; the variant's native size", examples=[256]
    )
    decoder: Literal["full", "tiny"] = Field(
        "full", description="`tiny`: the variant's small decoder, faster and less exact"
    )
    enable_deepcache: bool = Field(
        False, description="every other step reuses the UNet's deep features: faster, less exact"
    )
    output_format: Literal["jpeg", "png", "webp"] = Field("jpeg", description="picture format")
    quality: Annotated[Integer, Field(ge=1, le=100)] = Field(90, description="JPEG and WebP")
    use_jpeg: bool | None = Field(
        None,
        description="older clients: true = jpeg, false = png; output_format png or webp goes first",
    )
    embed_parameters: bool = Field(True, description="write the parameters into the picture")
    embed_inputs: bool = Field(
        False,
        description="PNG only: write the depth map that was used, and the picture to start from, "
        "into the picture too, so that the file alone suffices to paint it again",
    )
    request_id: RequestId | None = Field(
        None,
        description="an id of the caller's; a second request with the id of one that still runs "
        "joins it",
    )
    session: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = Field(
        None, description="latest wins: a new request supersedes the session's others"
    )
    deadline_ms: Annotated[Integer, Field(ge=1, le=86_400_000)] | None = Field(
        None, description="milliseconds from arrival; late work is dropped, not computed"
    )

    @field_validator("prompt", "negative_prompt", "session")
    @classmethod
    def _plain_text(cls, text: str | None) -> str | None:
        if text is not None and any(
            unicodedata.category(char) in {"Cc", "Cs"} and char not in "\t\n\r" for char in text
        ):
            raise ValueError("must not contain control characters")
        return text

    @field_validator("prompt", "negative_prompt")
    @classmethod
    def _weights_within_bounds(cls, text: str | None) -> str | None:
        if text is not None:
            parse_prompt(text)
        return text

    @field_validator("prompt")
    @classmethod
    def _not_blank(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("must not be blank")
        return text

    @model_validator(mode="after")
    def _fits_together(self) -> GenerateRequest:
        if self.control_guidance_start > self.control_guidance_end:
            raise ValueError(
                "control_guidance_start: must be at most control_guidance_end "
                f"({self.control_guidance_end})"
            )
        if self.depth_map_b64 is not None and self.mock_depth:
            raise ValueError("mock_depth: must be false when depth_map_b64 is given")
        _check_pictures(self)
        return self

    @property
    def picture_format(self) -> Literal["jpeg", "png", "webp"]:
        """The output format, with the older clients' flag taken into account."""
        if self.use_jpeg is None or self.output_format != "jpeg":
            return self.output_format
        return "jpeg" if self.use_jpeg else "png"


def _check_pictures(request: GenerateRequest) -> None:
    """Every picture has one use, and every use its picture."""
    mapped = request.depth_map_b64 is not None or request.mock_depth
    if request.image_b64 is None:
        for name in ("strength", "depth_estimator"):
            if getattr(request, name) is not None:
                raise ValueError(f"{name}: needs image_b64")
        if not mapped:
            raise ValueError("depth_map_b64: one of depth_map_b64, mock_depth, image_b64 is needed")
    elif mapped and request.depth_estimator is not None:
        raise ValueError("depth_estimator: must be left out where a depth map is given")
    elif mapped and request.strength is None:
        raise ValueError("image_b64: beside a depth map it needs strength")


class EstimateRequest(BaseModel):
    """A photograph whose depth is wanted."""

    model_config = ConfigDict(extra="forbid")

    image_b64: str = Field(
        max_length=_MAX_PICTURE_TEXT,
        description="base64 or data URL of a PNG, JPEG, WebP or TIFF",
    )
    depth_estimator: CatalogName | None = Field(
        None, description="an estimator of the catalog; its default"
    )
    width: Side | None = Field(
        None,
        description="of the map: 256 to 2048, multiple of 8; without it the photograph's own, or "
        "what keeps its proportions, brought within these bounds",
        examples=[256],
    )
    height: Side | None = Field(None, description="of the map, likewise", examples=[256])
    invert_depth: bool = Field(False, description="turn near and far round")
    normalize_depth: bool = Field(False, description="stretch depth over the whole range")


class CancelRequest(BaseModel):
    """What to cancel: exactly one of the fields."""

    model_config = ConfigDict(extra="forbid")

    request_id: RequestId | None = Field(None, description="one request", examples=["table-7"])
    session: str | None = Field(None, description="all requests of a session", max_length=128)
    all: bool = Field(False, description="everything")

    @model_validator(mode="after")
    def _exactly_one(self) -> CancelRequest:
        if sum((self.request_id is not None, self.session is not None, self.all)) != 1:
            raise ValueError("request_id: exactly one of request_id, session, all is needed")
        return self


class LoadRequest(BaseModel):
    """What to load or unload. The query parameters `model_name`, `controlnet_id` work too."""

    model_config = ConfigDict(extra="forbid")

    model: CatalogName | None = Field(None, description="a variant", examples=["base"])
    controlnet: CatalogName | None = Field(
        None, description="a ControlNet", examples=["sdxl_small"]
    )
