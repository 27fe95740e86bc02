"""State and catalog of the service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Health:
    """State of the service at one moment.

    Attributes:
        status: starting, loading_models, ready, degraded or error.
        ready: Whether the service can process a request now.
        models_loaded: Variants in memory.
        models_available: Variants that requests can name.
        controlnets_available: ControlNets that requests can name.
        device: Compute device, such as cpu.
        waiting: Number of requests in the queue.
        running: Number of requests in progress.
        estimated_seconds: Estimated seconds until all requests are done.
        uptime: Seconds since the start of the service.
        startup_error: Reason for a failed start, if known.
        load_errors: What could not be loaded or downloaded, and why.
        answer: Complete JSON response.
    """

    status: str
    ready: bool
    models_loaded: tuple[str, ...]
    models_available: tuple[str, ...]
    controlnets_available: tuple[str, ...]
    device: str
    waiting: int
    running: int
    estimated_seconds: float
    uptime: float
    startup_error: str | None
    load_errors: Mapping[str, str]
    answer: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_json(cls, answer: Mapping[str, Any]) -> Health:
        """Parse the service's response."""
        queue = answer["queue"]
        return cls(
            status=answer["status"],
            ready=answer["ready_for_inference"],
            models_loaded=tuple(answer["models_loaded"]),
            models_available=tuple(answer["models_available"]),
            controlnets_available=tuple(answer["controlnets_available"]),
            device=answer.get("device", ""),
            waiting=queue["waiting"],
            running=queue["running"],
            estimated_seconds=queue["estimated_seconds"],
            uptime=answer["uptime"],
            startup_error=answer.get("startup_status", {}).get("startup_error"),
            # Older services have none.
            load_errors=answer.get("load_errors", {}),
            answer=answer,
        )


@dataclass(frozen=True)
class ModelDetails:
    """One variant with its defaults and origin.

    Attributes:
        description: Human-readable description.
        steps: Default number of denoising steps.
        cfg: Default guidance scale.
        guidance_start: Default share of the steps before guidance begins.
        guidance_end: Default share of the steps after which it ends.
        scheduler: Default scheduler.
        native_size: Native side length in pixels.
        licence: Licence of the weights.
        source: Origin of the weights.
        size_bytes: Size of the weights in bytes.
        resident: Whether the variant is in memory.
        speeds: Accepted values of a request's `speed`.
        lora_mode: How LoRAs act, `merged` or `low_rank`; None while the variant is not in memory.
    """

    description: str
    steps: int
    cfg: float
    scheduler: str
    native_size: int
    licence: str
    source: str
    size_bytes: int
    resident: bool
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    speeds: Sequence[str] = ("exact",)
    lora_mode: str | None = None


@dataclass(frozen=True)
class ModelsInfo:
    """Names that requests accept, and their defaults; `answer` is the complete JSON response."""

    models: tuple[str, ...]
    controlnets: tuple[str, ...]
    schedulers: tuple[str, ...]
    loras: tuple[str, ...]
    eras: tuple[str, ...]
    depth_estimators: tuple[str, ...]
    default_model: str
    default_controlnet: str
    default_depth_estimator: str | None
    era_prompts: Mapping[str, str]
    details: Mapping[str, ModelDetails]
    answer: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_json(cls, answer: Mapping[str, Any]) -> ModelsInfo:
        """Parse the service's response."""
        names = ModelDetails.__dataclass_fields__
        return cls(
            models=tuple(answer["available_models"]),
            controlnets=tuple(answer["available_controlnets"]),
            schedulers=tuple(answer["available_schedulers"]),
            loras=tuple(answer["available_loras"]),
            eras=tuple(answer["available_eras"]),
            depth_estimators=tuple(answer.get("available_depth_estimators", ())),
            default_model=answer["default_model"],
            default_controlnet=answer["default_controlnet"],
            default_depth_estimator=answer.get("default_depth_estimator"),
            era_prompts=answer.get("era_prompts", {}),
            details={
                name: ModelDetails(**{key: value for key, value in entry.items() if key in names})
                for name, entry in answer["details"].items()
            },
            answer=answer,
        )


@dataclass(frozen=True)
class Loaded:
    """Variants and ControlNets in memory after a load or unload, which took `seconds`."""

    message: str
    models: tuple[str, ...]
    controlnets: tuple[str, ...]
    seconds: float

    @classmethod
    def from_json(cls, answer: Mapping[str, Any]) -> Loaded:
        """Parse the service's response."""
        return cls(
            message=answer["message"],
            models=tuple(answer["loaded_models"]),
            controlnets=tuple(answer.get("loaded_controlnets", ())),
            seconds=answer["seconds"],
        )
