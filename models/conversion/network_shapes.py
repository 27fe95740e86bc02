"""Names and shapes of a network's tensors, from the libraries that build it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.conversion.safetensors_io import Shape, WeightsError

_ENCODER = "encoder."


def network_shapes(kind: str, config: Mapping[str, Any]) -> dict[str, Shape]:
    """Return the shapes of all tensors of a network of diffusers, by name.

    The network is built without memory for its weights. A tiny decoder has no encoder.

    Args:
        kind: `unet`, `vae` or `tiny_decoder`.
        config: canonical configuration.

    Raises:
        WeightsError: no network can be built from the configuration.
    """
    # The import takes seconds, and a whole checkpoint does not need it.
    import diffusers
    import torch

    cls: Any = getattr(diffusers, config["_class_name"])
    try:
        with torch.device("meta"):
            network = cls.from_config(dict(config))
    # diffusers raises whatever the first impossible layer does.
    except Exception as error:
        raise WeightsError(
            f"{kind}: no network can be built from its configuration "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        ) from error
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    if kind == "tiny_decoder":
        return {name: shape for name, shape in shapes.items() if not name.startswith(_ENCODER)}
    return shapes
