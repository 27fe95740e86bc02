"""What the service tells about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Health:
    """The service at one moment; `answer` is all that it told.

    Attributes:
        status: starting, loading_models, ready, degraded or error.
        ready: whether a request would be painted now.
        models_loaded: variants in memory.
        models_available: variants that can be asked for.
        controlnets_available: ControlNets that can be asked for.
        device: what it computes on.
        waiting: requests in the queue.
        running: requests being painted.
        estimated_seconds: until all of them are done.
        uptime: seconds since its start.
        startup_error: why it cannot paint, where it knows.
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
    answer: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Health:
        """From the service's answer."""
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
            answer=answer,
        )


@dataclass(frozen=True)
class ModelDetails:
    """A variant: its defaults, and where it comes from."""

    description: str
    steps: int
    cfg: float
    scheduler: str
    native_size: int
    licence: str
    source: str
    size_bytes: int
    resident: bool


@dataclass(frozen=True)
class ModelsInfo:
    """What requests may name; `answer` is all that the service told."""

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
    def of(cls, answer: Mapping[str, Any]) -> ModelsInfo:
        """From the service's answer."""
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
                name: ModelDetails(**{key: value for key, value in told.items() if key in names})
                for name, told in answer["details"].items()
            },
            answer=answer,
        )


@dataclass(frozen=True)
class Loaded:
    """What is in memory after a load or unload."""

    message: str
    models: tuple[str, ...]
    controlnets: tuple[str, ...]
    seconds: float

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Loaded:
        """From the service's answer."""
        return cls(
            message=answer["message"],
            models=tuple(answer["loaded_models"]),
            controlnets=tuple(answer.get("loaded_controlnets", ())),
            seconds=answer["seconds"],
        )
