"""What the health and models routes tell."""

from __future__ import annotations

import time

from api.requests import SCHEDULERS
from api.resolve import Resolver
from api.responses import (
    Health,
    LoadResponse,
    MemoryUsage,
    ModelDetails,
    ModelsInfo,
    QueueState,
    StartupStatus,
)
from models.store import default_name
from runners.messages import LoadOutcome, RunnerStatus


def health_of(resolver: Resolver, status: RunnerStatus, decoding: int, started: float) -> Health:
    """The health answer.

    Args:
        resolver: knows the catalog and the store.
        status: what the runner has told of itself.
        decoding: requests whose pictures are being decoded, which the runner does not know yet.
        started: when the service did, on `time.monotonic()`'s clock.
    """
    problems = [status.startup_error, *status.load_errors.values()]
    return Health(
        status=status.state,
        model_server_healthy=status.state != "error",
        ready_for_inference=status.state in {"ready", "degraded"},
        models_loaded=list(status.loaded_models),
        models_available=list(resolver.inventory.models),
        controlnets_available=list(resolver.inventory.controlnets),
        memory_usage=MemoryUsage(ram_mb=round(status.ram_mb, 1), gpu_memory=status.gpu_memory),
        queue=QueueState(
            waiting=status.waiting + decoding,
            running=status.running,
            estimated_seconds=round(status.estimated_seconds, 2),
        ),
        uptime=round(time.monotonic() - started, 1),
        device=status.device,
        startup_status=StartupStatus(
            download_progress=status.downloads,
            startup_error="; ".join(problem for problem in problems if problem) or None,
        ),
    )


def models_of(resolver: Resolver, status: RunnerStatus) -> ModelsInfo:
    """What of the catalog can be asked for, and the details of each variant."""
    catalog, inventory = resolver.catalog, resolver.inventory
    return ModelsInfo(
        available_models=list(inventory.models),
        available_controlnets=list(inventory.controlnets),
        available_schedulers=list(SCHEDULERS),
        available_loras=list(inventory.loras),
        available_eras=list(catalog.eras),
        available_depth_estimators=list(inventory.depth_estimators),
        default_model=default_name(inventory.models, catalog.default_model),
        default_controlnet=default_name(inventory.controlnets, catalog.default_controlnet),
        default_depth_estimator=resolver.default_depth_estimator,
        era_prompts={name: era.prompt for name, era in catalog.eras.items()},
        details={
            name: ModelDetails(
                description=catalog.models[name].description,
                steps=catalog.models[name].steps,
                cfg=catalog.models[name].cfg,
                scheduler=catalog.models[name].scheduler.class_name,
                native_size=catalog.models[name].native_size,
                decoders=["full", "tiny"] if "tiny_decoder" in entry.components else ["full"],
                source=catalog.models[name].source,
                licence=catalog.models[name].licence,
                digest=entry.digest,
                size_bytes=entry.size,
                resident=name in status.loaded_models,
            )
            for name, entry in inventory.models.items()
        },
    )


def loaded(outcome: LoadOutcome) -> LoadResponse:
    """What is in memory after a load or unload."""
    return LoadResponse(
        message=outcome.message,
        loaded_models=list(outcome.loaded_models),
        loaded_controlnets=list(outcome.loaded_controlnets),
        seconds=round(outcome.seconds, 3),
    )
