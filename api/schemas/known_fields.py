"""Fields of all requests, and suggestions for unknown ones."""

from __future__ import annotations

import difflib

from api.schemas.requests import CancelRequest, EstimateRequest, GenerateRequest, LoadRequest

_FIELDS = sorted(
    {
        name
        for request in (GenerateRequest, EstimateRequest, CancelRequest, LoadRequest)
        for name in request.model_fields
    }
)
_OTHER_NAMES = {
    "batch_size": "num_images",
    "cfg_scale": "cfg",
    "controlnet_conditioning_scale": "controlnet_strength",
    "denoising_strength": "strength",
    "depth": "depth_map_b64",
    "depth_map": "depth_map_b64",
    "guidance": "cfg",
    "guidance_scale": "cfg",
    "image": "image_b64",
    "init_image": "image_b64",
    "lora": "loras",
    "model_name": "model",
    "n_iter": "num_images",
    "num_images_per_prompt": "num_images",
    "num_inference_steps": "steps",
    "sampler": "scheduler",
    "sampler_name": "scheduler",
}
"""Names of the same parameters in A1111, ComfyUI and diffusers."""


def describe_unknown_field(name: str) -> str:
    """Return the message for an unknown field, with the nearest known one if there is one."""
    near = _OTHER_NAMES.get(name.lower())
    if near is None:
        near = next(iter(difflib.get_close_matches(name.lower(), _FIELDS, n=1, cutoff=0.7)), None)
    return "unknown field" if near is None else f"unknown field; did you mean `{near}`?"
