"""Metadata embedded in an image, sufficient to generate it again."""

from __future__ import annotations

from typing import Any

from api.handlers.resolve import ResolvedRequest
from api.schemas.requests import GenerateRequest
from common import __version__
from common.protocol import GenerateJob

SOFTWARE = f"experimance-controlnet {__version__}"


def build_job_parameters(
    request: GenerateRequest,
    resolved: ResolvedRequest,
    job: GenerateJob,
    depth_digest: str,
    image_digest: str,
) -> dict[str, Any]:
    """Return a job as request fields, with every default filled in and without its images.

    The SHA-256 digests of the uploaded files show whether a later generation uses the same inputs.
    `digests` do the same for the weights. `seed` is the seed of the first image.

    Args:
        request: the request as the client sent it.
        resolved: its resolution, with the digests of the weights.
        job: the resolved job.
        depth_digest: SHA-256 of the uploaded depth map, in hex; empty without one.
        image_digest: SHA-256 of the uploaded photograph, in hex; empty without one.
    """
    return {
        "software": SOFTWARE,
        "digests": resolved.digests,
        "prompt": job.prompt,
        "negative_prompt": job.negative_prompt,
        "model": job.model,
        "seed": job.seed,
        "speed": request.speed,
        "steps": job.steps,
        "cfg": job.guidance_scale,
        "guidance_start": job.guidance_start,
        "guidance_end": job.guidance_end,
        "scheduler": job.scheduler,
        "use_karras_sigmas": job.use_karras_sigmas,
        "controlnet": job.controlnet,
        "controlnet_strength": job.controlnet_strength,
        "control_guidance_start": job.control_guidance_start,
        "control_guidance_end": job.control_guidance_end,
        "era": resolved.era,
        "loras": [{"name": lora.name, "strength": lora.strength} for lora in job.loras],
        "width": job.width,
        "height": job.height,
        "decoder": job.decoder,
        "enable_deepcache": job.enable_deepcache,
        "mock_depth": request.mock_depth,
        "depth_sha256": depth_digest,
        "image_sha256": image_digest,
        "depth_estimator": resolved.depth_estimator,
        "strength": job.strength,
        "invert_depth": request.invert_depth,
        "normalize_depth": request.normalize_depth,
        "output_format": job.output_format,
        "quality": job.quality,
    }
