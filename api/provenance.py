"""What is written into a picture: enough to paint it again."""

from __future__ import annotations

from typing import Any

from api import __version__
from api.requests import GenerateRequest
from api.resolve import Resolved
from runners.messages import PaintJob

SOFTWARE = f"experimance-controlnet {__version__}"


def parameters(
    request: GenerateRequest,
    resolved: Resolved,
    job: PaintJob,
    depth_digest: str,
    image_digest: str,
) -> dict[str, Any]:
    """A job as fields of a request, with every default filled in, but for its pictures.

    Of these there is the SHA-256 of the sender's file, empty where there was none, so that who
    paints again knows whether it is the right one. `seed` is the first picture's; `digests` tell
    whether the weights are the same.
    """
    return {
        "software": SOFTWARE,
        "digests": resolved.digests,
        "prompt": job.prompt,
        "negative_prompt": job.negative_prompt,
        "model": job.model,
        "seed": job.seed,
        "steps": job.steps,
        "cfg": job.guidance_scale,
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
