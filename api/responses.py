"""What clients get back."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class LoraUse(BaseModel):
    """A LoRA as it acted: catalog name and final strength."""

    name: str = Field(description="a LoRA of the catalog")
    strength: float = Field(description="after lora_strength")


class Timings(BaseModel):
    """Seconds per part of the work."""

    queue: float = Field(0.0, description="waiting")
    encode: float = Field(0.0, description="prompt, depth map and noise")
    denoise: float = Field(0.0, description="all steps")
    decode: float = Field(0.0, description="latents to pixels")
    save: float = Field(0.0, description="pixels to a file")


class Metadata(BaseModel):
    """How the picture was painted, defaults filled in."""

    steps: int = Field(description="asked for, or the variant's")
    cfg: float = Field(description="guidance scale")
    scheduler: str = Field(
        description="class of the scheduler", examples=["EulerDiscreteScheduler"]
    )
    controlnet: str = Field(description="which one acted")
    controlnet_strength: float = Field(description="how strictly depth was followed")
    control_guidance_start: float = Field(description="share of steps before control acted")
    control_guidance_end: float = Field(description="share of steps after which it ended")
    loras: list[LoraUse] = Field(description="those that acted")
    era: str | None = Field(description="as asked for")
    strength: float | None = Field(None, description="of image-to-image; null without it")
    depth_estimator: str | None = Field(None, description="what estimated the depth, if anything")
    width: int = Field(description="pixels")
    height: int = Field(description="pixels")
    timings: Timings = Field(description="where the time went")
    warnings: list[str] = Field(
        description="what the caller should know, e.g. an era without LoRAs"
    )


class GenerateResponse(BaseModel):
    """A finished picture, base64 without a prefix."""

    model_config = ConfigDict(protected_namespaces=())

    success: Literal[True] = Field(True, description="always")
    image_b64: str = Field(description="the first picture")
    images_b64: list[str] = Field(description="all pictures")
    depth_map_b64: str | None = Field(
        None, description="with `return_depth`: the depth that was used, a grey PNG"
    )
    error_message: None = Field(None, description="always null; errors have a body of their own")
    generation_time: float = Field(description="seconds from arrival to answer")
    seed_used: int = Field(description="of the first picture; the next ones have seed + 1, …")
    model_used: str = Field(description="the variant that painted")
    request_id: str = Field(description="the caller's, or one that was made")
    metadata: Metadata = Field(description="how it was painted")


class EstimateResponse(BaseModel):
    """A photograph's depth map, base64 without a prefix."""

    success: Literal[True] = Field(True, description="always")
    depth_map_b64: str = Field(description="a grey PNG, near = bright")
    depth_estimator: str = Field(description="what estimated it")
    width: int = Field(description="pixels")
    height: int = Field(description="pixels")
    seconds: float = Field(description="seconds from arrival to answer")
    request_id: str = Field(description="the caller's, or one that was made")
    warnings: list[str] = Field(description="what looks wrong about the map")


class CancelResponse(BaseModel):
    """The request ids that were cancelled."""

    cancelled: list[str] = Field(description="ids of what was ended")


class LoadResponse(BaseModel):
    """What is in memory after a load or unload."""

    status: Literal["success"] = Field("success", description="always")
    message: str = Field(description="what was done")
    loaded_models: list[str] = Field(description="variants in memory")
    loaded_controlnets: list[str] = Field(description="ControlNets in memory")
    seconds: float = Field(description="how long it took")


class MemoryUsage(BaseModel):
    """Memory in MB."""

    ram_mb: float = Field(description="resident memory of the runner")
    gpu_memory: dict[str, float] = Field(description="by kind; empty on a CPU")


class QueueState(BaseModel):
    """How much work there is."""

    waiting: int = Field(description="requests that wait")
    running: int = Field(description="requests that are painted")
    estimated_seconds: float = Field(description="until all of it is done")


class StartupStatus(BaseModel):
    """How the start goes."""

    download_progress: dict[str, dict[str, float | int | str]] = Field(
        default_factory=dict,
        description="per file: status, bytes_downloaded, total_bytes, percent",
    )
    startup_error: str | None = Field(None, description="why it does not serve, or not all")


class Health(BaseModel):
    """The service at this moment."""

    model_config = ConfigDict(protected_namespaces=())

    status: Literal["starting", "loading_models", "ready", "degraded", "error"] = Field(
        description="`degraded`: something is not served; `error`: nothing is"
    )
    model_server_healthy: bool = Field(description="false where status is error")
    ready_for_inference: bool = Field(description="whether a request would be painted now")
    models_loaded: list[str] = Field(description="variants in memory")
    models_available: list[str] = Field(description="variants that may be asked for")
    controlnets_available: list[str] = Field(description="ControlNets that may be asked for")
    memory_usage: MemoryUsage = Field(description="at this moment")
    queue: QueueState = Field(description="how much work there is")
    uptime: float = Field(description="seconds since the start")
    device: str = Field(description="what the runner computes on", examples=["cpu", "cuda:0"])
    startup_status: StartupStatus = Field(description="what the start is at")


class ModelDetails(BaseModel):
    """A variant: its defaults and where it comes from."""

    description: str = Field(description="the catalog's words")
    steps: int = Field(description="default")
    cfg: float = Field(description="default")
    scheduler: str = Field(description="class of the default one")
    native_size: int = Field(description="pixels a side, default")
    decoders: list[str] = Field(description="what a request's `decoder` may be")
    source: str = Field(description="where the weights come from")
    licence: str = Field(description="the catalog's words")
    digest: str = Field(description="of the weights in the store")
    size_bytes: int = Field(description="of its files")
    resident: bool = Field(description="whether it is in memory")


class ModelsInfo(BaseModel):
    """What requests may name."""

    available_models: list[str] = Field(description="variants")
    available_controlnets: list[str] = Field(description="ControlNets")
    available_schedulers: list[str] = Field(description="schedulers")
    available_loras: list[str] = Field(description="LoRAs")
    available_eras: list[str] = Field(description="eras")
    available_depth_estimators: list[str] = Field(description="depth estimators")
    default_model: str = Field(description="for requests that name none")
    default_controlnet: str = Field(description="for requests that name none")
    default_depth_estimator: str | None = Field(
        description="for photographs whose request names none; null where there is none"
    )
    era_prompts: dict[str, str] = Field(description="an example prompt per era")
    details: dict[str, ModelDetails] = Field(description="more about each variant")


class ErrorDetail(BaseModel):
    """What is wrong with one field."""

    field: str = Field(description="its name; empty where it is no field's")
    message: str = Field(description="what is wrong, and what is accepted")


class ErrorBody(BaseModel):
    """Every error, whatever its status."""

    success: Literal[False] = Field(False, description="always")
    error: str = Field(
        description="the code; see the table of errors", examples=["invalid_request"]
    )
    error_message: str = Field(
        description="for people", examples=["width: Input should be a multiple of 8"]
    )
    detail: list[ErrorDetail] = Field(description="problems by field")
    request_id: str = Field(description="under which the log has it")
