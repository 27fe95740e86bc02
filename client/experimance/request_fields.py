"""Types of the request fields that the client forwards unchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict


class Fields(TypedDict, total=False):
    """Fields of a generation request; the service fills in missing and None values.

    The service validates the values and rejects unknown names. Sizes are in pixels, and
    `deadline_ms` is in milliseconds.
    """

    negative_prompt: str | None
    strength: float | None
    depth_estimator: str | None
    invert_depth: bool
    normalize_depth: bool
    return_depth: bool
    model: str | None
    controlnet: str | None
    era: str | None
    loras: Mapping[str, float] | Sequence[Mapping[str, Any]] | None
    lora_strength: float | None
    steps: int | None
    cfg: float | None
    guidance_start: float | None
    guidance_end: float | None
    seed: int | None
    num_images: int | None
    controlnet_strength: float | None
    control_guidance_start: float | None
    control_guidance_end: float | None
    scheduler: str | None
    use_karras_sigmas: bool | None
    width: int | None
    height: int | None
    speed: Literal["exact", "balanced", "fast"] | None
    decoder: Literal["full", "tiny"] | None
    enable_deepcache: bool | None
    output_format: Literal["jpeg", "png", "webp"] | None
    quality: int | None
    embed_parameters: bool
    embed_inputs: bool
    request_id: str | None
    session: str | None
    deadline_ms: int | None


class EstimateFields(TypedDict, total=False):
    """Fields of a depth estimation request; see `Fields`."""

    depth_estimator: str | None
    width: int | None
    height: int | None
    invert_depth: bool
    normalize_depth: bool
