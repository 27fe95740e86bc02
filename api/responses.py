"""What clients get back."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class LoraUse(BaseModel):
    """A LoRA as it acted: catalog name and final strength."""

    name: str
    strength: float


class Timings(BaseModel):
    """Seconds per part of the work."""

    queue: float = 0.0
    encode: float = 0.0
    denoise: float = 0.0
    decode: float = 0.0
    save: float = 0.0


class Metadata(BaseModel):
    """How the picture was painted, defaults filled in."""

    steps: int
    cfg: float
    scheduler: str = Field(
        description="class of the scheduler", examples=["EulerDiscreteScheduler"]
    )
    controlnet: str
    controlnet_strength: float
    control_guidance_start: float
    control_guidance_end: float
    loras: list[LoraUse]
    era: str | None
    strength: float | None = Field(None, description="of image-to-image; null without it")
    depth_estimator: str | None = Field(None, description="what estimated the depth, if anything")
    width: int
    height: int
    timings: Timings
    warnings: list[str] = Field(
        description="what the caller should know, e.g. an era without LoRAs"
    )


class GenerateResponse(BaseModel):
    """A finished picture, base64 without a prefix."""

    model_config = ConfigDict(protected_namespaces=())

    success: Literal[True] = True
    image_b64: str = Field(description="the first picture")
    images_b64: list[str] = Field(description="all pictures")
    depth_map_b64: str | None = Field(
        None, description="with `return_depth`: the depth that was used, a grey PNG"
    )
    error_message: None = None
    generation_time: float = Field(description="seconds from arrival to answer")
    seed_used: int
    model_used: str
    request_id: str
    metadata: Metadata


class EstimateResponse(BaseModel):
    """A photograph's depth map, base64 without a prefix."""

    success: Literal[True] = True
    depth_map_b64: str = Field(description="a grey PNG, near = bright")
    depth_estimator: str = Field(description="what estimated it")
    width: int
    height: int
    seconds: float = Field(description="seconds from arrival to answer")
    request_id: str
    warnings: list[str] = Field(description="what looks wrong about the map")


class CancelResponse(BaseModel):
    """The request ids that were cancelled."""

    cancelled: list[str]


class LoadResponse(BaseModel):
    """What is in memory after a load or unload."""

    status: Literal["success"] = "success"
    message: str
    loaded_models: list[str]
    loaded_controlnets: list[str]
    seconds: float


class MemoryUsage(BaseModel):
    """Memory in MB."""

    ram_mb: float = Field(description="resident memory of the runner")
    gpu_memory: dict[str, float] = Field(description="by kind; empty on a CPU")


class QueueState(BaseModel):
    """How much work there is."""

    waiting: int
    running: int
    estimated_seconds: float = Field(description="until all of it is done")


class StartupStatus(BaseModel):
    """How the start goes."""

    download_progress: dict[str, dict[str, float | int | str]] = Field(default_factory=dict)
    startup_error: str | None = None


class Health(BaseModel):
    """The service at this moment."""

    model_config = ConfigDict(protected_namespaces=())

    status: Literal["starting", "loading_models", "ready", "degraded", "error"]
    model_server_healthy: bool
    ready_for_inference: bool
    models_loaded: list[str]
    models_available: list[str]
    controlnets_available: list[str]
    memory_usage: MemoryUsage
    queue: QueueState
    uptime: float = Field(description="seconds since the start")
    device: str = Field(description="what the runner computes on", examples=["cpu", "cuda:0"])
    startup_status: StartupStatus


class ModelDetails(BaseModel):
    """A variant: its defaults and where it comes from."""

    description: str
    steps: int
    cfg: float
    scheduler: str
    native_size: int
    decoders: list[str] = Field(description="what a request's `decoder` may be")
    source: str
    licence: str
    digest: str
    size_bytes: int
    resident: bool


class ModelsInfo(BaseModel):
    """What requests may name."""

    available_models: list[str]
    available_controlnets: list[str]
    available_schedulers: list[str]
    available_loras: list[str]
    available_eras: list[str]
    available_depth_estimators: list[str]
    default_model: str
    default_controlnet: str
    default_depth_estimator: str | None = Field(
        description="for photographs whose request names none; null where there is none"
    )
    era_prompts: dict[str, str] = Field(description="an example prompt per era")
    details: dict[str, ModelDetails]


class ErrorDetail(BaseModel):
    """What is wrong with one field."""

    field: str
    message: str


class ErrorBody(BaseModel):
    """Every error, whatever its status."""

    success: Literal[False] = False
    error: str = Field(examples=["invalid_request"])
    error_message: str = Field(examples=["width: Input should be a multiple of 8"])
    detail: list[ErrorDetail]
    request_id: str
