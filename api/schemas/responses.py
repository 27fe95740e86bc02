"""Response models."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class LoraUse(BaseModel):
    """Applied LoRA: catalog name and final strength."""

    name: str = Field(description="a LoRA of the catalog")
    strength: float = Field(description="after multiplication by lora_strength")


class Timings(BaseModel):
    """Duration of each phase, in seconds."""

    queue: float = Field(0.0, description="waiting for the device")
    encode: float = Field(0.0, description="encoding of the prompt, the depth map and the noise")
    denoise: float = Field(0.0, description="all denoising steps")
    decode: float = Field(0.0, description="decoding of latents to pixels")
    save: float = Field(0.0, description="encoding of pixels to an image file")


class Metadata(BaseModel):
    """Parameters of the generation, defaults included."""

    steps: int = Field(description="denoising steps: requested, or the variant's default")
    cfg: float = Field(description="guidance scale")
    guidance_start: float = Field(description="share of steps before guidance began")
    guidance_end: float = Field(description="share of steps after which it ended")
    speed: str = Field(description="requested speed; its settings are in the other fields")
    decoder: Literal["full", "tiny"] = Field(description="decoder that was used")
    enable_deepcache: bool = Field(description="whether steps reused deep features")
    scheduler: str = Field(
        description="class name of the scheduler", examples=["EulerDiscreteScheduler"]
    )
    controlnet: str = Field(description="name of the ControlNet")
    controlnet_strength: float = Field(description="weight of the depth control")
    control_guidance_start: float = Field(description="share of steps before control started")
    control_guidance_end: float = Field(description="share of steps after which it ended")
    loras: list[LoraUse] = Field(description="applied LoRAs")
    era: str | None = Field(description="requested era")
    strength: float | None = Field(None, description="of image-to-image; null without it")
    depth_estimator: str | None = Field(None, description="depth estimator; null without one")
    width: int = Field(description="pixels")
    height: int = Field(description="pixels")
    timings: Timings = Field(description="duration of each phase")
    warnings: list[str] = Field(description="notices for the client, e.g. an era without LoRAs")


class GenerateResponse(BaseModel):
    """Generated images, base64 without a prefix."""

    model_config = ConfigDict(protected_namespaces=())

    success: Literal[True] = Field(True, description="always")
    image_b64: str = Field(description="the first image")
    images_b64: list[str] = Field(description="all images")
    depth_map_b64: str | None = Field(
        None, description="with `return_depth`: the depth map that was used, a grey PNG"
    )
    error_message: None = Field(None, description="always null; errors have a body of their own")
    generation_time: float = Field(description="seconds from arrival to response")
    seed_used: int = Field(description="seed of the first image; the next ones have seed + 1, …")
    model_used: str = Field(description="name of the variant")
    request_id: str = Field(description="the client's, or a generated one")
    metadata: Metadata = Field(description="parameters of the generation")


class EstimateResponse(BaseModel):
    """Depth map of a photograph, base64 without a prefix."""

    success: Literal[True] = Field(True, description="always")
    depth_map_b64: str = Field(description="grey PNG, near = bright")
    depth_estimator: str = Field(description="name of the depth estimator")
    width: int = Field(description="pixels")
    height: int = Field(description="pixels")
    seconds: float = Field(description="seconds from arrival to response")
    request_id: str = Field(description="the client's, or a generated one")
    warnings: list[str] = Field(description="suspected problems of the map")


class CancelResponse(BaseModel):
    """Ids of the cancelled requests."""

    cancelled: list[str] = Field(description="ids of the cancelled requests")


class LoadResponse(BaseModel):
    """Weights in memory after a load or unload."""

    status: Literal["success"] = Field("success", description="always")
    message: str = Field(description="performed actions")
    loaded_models: list[str] = Field(description="variants in memory")
    loaded_controlnets: list[str] = Field(description="ControlNets in memory")
    seconds: float = Field(description="duration in seconds")


class MemoryUsage(BaseModel):
    """Memory use in MB (1e6 bytes)."""

    ram_mb: float = Field(description="resident memory of the runner")
    gpu_memory: dict[str, float] = Field(description="GPU memory by kind; empty on a CPU")


class QueueState(BaseModel):
    """Waiting and running requests."""

    waiting: int = Field(description="requests that wait")
    running: int = Field(description="requests in progress")
    estimated_seconds: float = Field(description="estimated seconds until all requests are done")


class StartupStatus(BaseModel):
    """Progress of the start."""

    download_progress: dict[str, dict[str, float | int | str]] = Field(
        default_factory=dict,
        description="per file: status, bytes_downloaded, total_bytes, percent",
    )
    startup_error: str | None = Field(None, description="reason for status degraded or error")


class Health(BaseModel):
    """Current state of the service."""

    model_config = ConfigDict(protected_namespaces=())

    status: Literal["starting", "loading_models", "ready", "degraded", "error"] = Field(
        description="`ready`: the default variant is served, whatever else failed; `degraded`: "
        "only others are; `error`: nothing is"
    )
    model_server_healthy: bool = Field(description="false where status is error")
    ready_for_inference: bool = Field(description="whether the service can process a request now")
    models_loaded: list[str] = Field(description="variants in memory")
    models_available: list[str] = Field(description="variants that requests may name")
    controlnets_available: list[str] = Field(description="ControlNets that requests may name")
    memory_usage: MemoryUsage = Field(description="current memory use")
    queue: QueueState = Field(description="waiting and running requests")
    uptime: float = Field(description="seconds since the start")
    device: str = Field(description="device of the runner", examples=["cpu", "cuda:0"])
    load_errors: dict[str, str] = Field(
        description="what could not be loaded or downloaded, and why",
        examples=[{"lora mist": "lora mist for model base: the file could not be read"}],
    )
    startup_status: StartupStatus = Field(description="progress of the start")


class ModelDetails(BaseModel):
    """Defaults and origin of a variant."""

    description: str = Field(description="description in the catalog")
    steps: int = Field(description="default number of steps")
    cfg: float = Field(description="default guidance scale")
    guidance_start: float = Field(description="default share of steps before guidance begins")
    guidance_end: float = Field(description="default share of steps after which it ends")
    scheduler: str = Field(description="class name of the default scheduler")
    native_size: int = Field(description="default width and height in pixels")
    decoders: list[str] = Field(description="accepted values of a request's `decoder`")
    speeds: list[str] = Field(description="accepted values of a request's `speed`")
    source: str = Field(description="origin of the weights")
    licence: str = Field(description="licence in the catalog")
    digest: str = Field(description="digest of the weights in the store")
    size_bytes: int = Field(description="total size of the files")
    resident: bool = Field(description="whether the variant is in memory")
    lora_mode: Literal["merged", "low_rank"] | None = Field(
        description="how LoRAs act on the UNet: merged into a copy of its weights, or as low-rank "
        "products beside its layers; null while the variant is not in memory"
    )


class LoraDetails(BaseModel):
    """Origin of a LoRA, and what of it is not applied."""

    description: str = Field(description="description in the catalog")
    source: str = Field(description="origin of the weights")
    licence: str = Field(description="licence in the catalog")
    digest: str = Field(description="digest of the weights in the store")
    size_bytes: int = Field(description="size of the file")
    notes: list[str] = Field(description="parts of the file that are not applied, and why")


class ModelsInfo(BaseModel):
    """Names that requests accept."""

    available_models: list[str] = Field(description="variants")
    available_controlnets: list[str] = Field(description="ControlNets")
    available_schedulers: list[str] = Field(description="schedulers")
    available_loras: list[str] = Field(description="LoRAs")
    available_eras: list[str] = Field(description="eras")
    available_depth_estimators: list[str] = Field(description="depth estimators")
    default_model: str = Field(description="for requests that name none")
    default_controlnet: str = Field(description="for requests that name none")
    default_depth_estimator: str | None = Field(
        description="for photographs whose request names none; null if none is available"
    )
    era_prompts: dict[str, str] = Field(description="an example prompt per era")
    details: dict[str, ModelDetails] = Field(description="details of each variant")
    lora_details: dict[str, LoraDetails] = Field(description="details of each LoRA")


class ErrorDetail(BaseModel):
    """Problem with one field."""

    field: str = Field(description="name of the field; empty for problems of the whole request")
    message: str = Field(description="the problem and the accepted values")


class ErrorBody(BaseModel):
    """Body of every error response."""

    success: Literal[False] = Field(False, description="always")
    error: str = Field(
        description="error code; see the table of errors", examples=["invalid_request"]
    )
    error_message: str = Field(
        description="description for people", examples=["width: Input should be a multiple of 8"]
    )
    detail: list[ErrorDetail] = Field(description="problems by field")
    request_id: str = Field(description="id of the request in the log")
