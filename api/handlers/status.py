"""Responses of the health, models and load routes."""

from __future__ import annotations

import time

from api.handlers.resolve import RequestResolver
from api.schemas.responses import (
    Health,
    LoadResponse,
    LoraDetails,
    MemoryUsage,
    ModelDetails,
    ModelsInfo,
    QueueState,
    StartupStatus,
)
from common.protocol import LoadResult, RunnerStatus
from common.scheduler_table import SCHEDULER_NAMES
from models.store.inventory import pick_default


def build_health(
    resolver: RequestResolver, status: RunnerStatus, decoding: int, started: float
) -> Health:
    """Return the health response.

    Args:
        resolver: access to the catalog and the store.
        status: last known status of the runner.
        decoding: number of images in decoding, whose requests are not yet in the runner.
        started: start of the service in seconds, on the clock of `time.monotonic()`.
    """
    is_well = status.state not in {"degraded", "error"}
    problems = [] if is_well else [status.startup_error, *status.load_errors.values()]
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
        load_errors=dict(status.load_errors),
        startup_status=StartupStatus(
            download_progress=status.downloads,
            startup_error="; ".join(problem for problem in problems if problem) or None,
        ),
    )


def build_models_info(resolver: RequestResolver, status: RunnerStatus) -> ModelsInfo:
    """Return the available names and the details of each variant."""
    catalog, inventory = resolver.catalog, resolver.inventory
    return ModelsInfo(
        available_models=list(inventory.models),
        available_controlnets=list(inventory.controlnets),
        available_schedulers=list(SCHEDULER_NAMES),
        available_loras=list(inventory.loras),
        available_eras=list(catalog.eras),
        available_depth_estimators=list(inventory.depth_estimators),
        default_model=pick_default(inventory.models, catalog.default_model),
        default_controlnet=pick_default(inventory.controlnets, catalog.default_controlnet),
        default_depth_estimator=resolver.default_depth_estimator,
        era_prompts={name: era.prompt for name, era in catalog.eras.items()},
        details={
            name: ModelDetails(
                description=catalog.models[name].description,
                steps=catalog.models[name].steps,
                cfg=catalog.models[name].cfg,
                guidance_start=catalog.models[name].guidance_start,
                guidance_end=catalog.models[name].guidance_end,
                scheduler=catalog.models[name].scheduler.class_name,
                native_size=catalog.models[name].native_size,
                speeds=["exact", *catalog.models[name].speeds],
                decoders=["full", "tiny"] if "tiny_decoder" in entry.components else ["full"],
                source=catalog.models[name].source,
                licence=catalog.models[name].licence,
                digest=entry.digest,
                size_bytes=entry.size,
                resident=name in status.loaded_models,
                lora_mode=status.lora_modes.get(name),
            )
            for name, entry in inventory.models.items()
        },
        lora_details={
            name: LoraDetails(
                description=catalog.loras[name].description,
                source=catalog.loras[name].source,
                licence=catalog.loras[name].licence,
                digest=entry.digest,
                size_bytes=entry.size,
                notes=list(entry.notes),
            )
            for name, entry in inventory.loras.items()
        },
    )


def build_load_response(outcome: LoadResult) -> LoadResponse:
    """Return the weights in memory after a load or unload."""
    return LoadResponse(
        message=outcome.message,
        loaded_models=list(outcome.loaded_models),
        loaded_controlnets=list(outcome.loaded_controlnets),
        seconds=round(outcome.seconds, 3),
    )
