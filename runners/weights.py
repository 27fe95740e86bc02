"""Networks straight from their files: built without memory, then given mapped tensors.

Nothing is initialised, cast or copied where the file already holds what the device wants: on a
CPU the weights are the file's own pages, on a GPU they are read from these into its memory.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from runners.device import Device
from runners.pinned import PinnedStore

_NETWORKS: dict[str, Any] = {
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "tiny_decoder": AutoencoderTiny,
    "controlnet": ControlNetModel,
}
_PREFIX = "text_model."


def load_network(kind: str, path: Path, device: Device, pinned: PinnedStore | None = None) -> Any:
    """A network of the store in eval mode on the device, its weights frozen.

    Args:
        kind: a key of _NETWORKS.
        path: a folder with config.json and one safetensors file.
        device: where to, and in which dtype; an autoencoder that would overflow in float16
            (`force_upcast`) is loaded in float32.
        pinned: keeps a copy beside a GPU, for the next time.

    Raises:
        OSError, ValueError: files that are not there, or several of them.
        RuntimeError: weights that do not fit the configuration.
    """
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    network = _build(kind, config)
    (file,) = path.glob("*.safetensors")
    dtype = _dtype(kind, network, device)
    if pinned is None:
        found = load_file(file, device=str(device.torch_device))
        weights = {name: tensor.to(dtype) for name, tensor in found.items()}
    else:
        weights = pinned.read(file, dtype)
    if kind == "text_encoder":
        weights = _named_as(network, weights)
    network.load_state_dict(weights, assign=True)
    _make_buffers(network, device)
    return network.eval().requires_grad_(False)


def _build(kind: str, config: dict[str, Any]) -> Any:
    with torch.device("meta"):
        if kind.startswith("text_encoder"):
            return _NETWORKS[kind](CLIPTextConfig(**config))
        return _NETWORKS[kind].from_config(config)


def _dtype(kind: str, network: Any, device: Device) -> torch.dtype:
    if kind == "vae" and device.dtype == torch.float16 and network.config.force_upcast:
        # SDXL's own autoencoder overflows in half precision and would paint black.
        return torch.float32
    return device.dtype


def _named_as(network: Any, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Versions of transformers differ in whether the text encoder's names have a prefix."""
    wanted = any(name.startswith(_PREFIX) for name in network.state_dict())
    bare = {name.removeprefix(_PREFIX): tensor for name, tensor in weights.items()}
    return {_PREFIX + name: tensor for name, tensor in bare.items()} if wanted else bare


def _make_buffers(network: Any, device: Device) -> None:
    """Give memory to the buffers that no file holds: CLIP's position numbers."""
    for name, buffer in network.named_buffers():
        if not buffer.is_meta:
            continue
        owner, _, attribute = name.rpartition(".")
        if attribute != "position_ids":
            raise RuntimeError(f"no file holds the buffer {name}")
        numbers = torch.arange(buffer.shape[-1], device=device.torch_device).expand(buffer.shape)
        network.get_submodule(owner).register_buffer(attribute, numbers, persistent=False)
