"""Keys of the model cache's entries."""

from __future__ import annotations

from common.protocol import GenerateJob


def estimator_key(name: str) -> str:
    """Return the key of a depth estimator; variants and ControlNets are keyed by their names."""
    return f"depth_estimator {name}"


def lora_key(model: str, name: str) -> str:
    """Return the key of a variant's LoRA.

    Args:
        model: name of the variant.
        name: name of the LoRA.
    """
    return f"lora {model} {name}"


def used_keys(job: GenerateJob) -> set[str]:
    """Return the keys of all weights that a job's steps need."""
    loras = {lora_key(job.model, lora.name) for lora in job.loras}
    return {job.model, job.controlnet} | loras
