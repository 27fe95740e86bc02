"""Loading of networks: built on the meta device, then assigned memory-mapped tensors.

Weights that already have the device's dtype are neither initialized nor cast. On a CPU the tensors
are the file's mapped pages; to a GPU they travel as `WeightUploader` describes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, UNet2DConditionModel
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from runners.device import Device
from runners.networks.pinned_weights import PinnedWeightCache
from runners.networks.sdxl import ControlNet
from runners.networks.static_conditioning import CrossAttentionCache
from runners.networks.weight_upload import WeightUploader

_NETWORKS: dict[str, Any] = {
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "tiny_decoder": AutoencoderTiny,
    "controlnet": ControlNetModel,
}
_PREFIX = "text_model."
_DECODER = "decoder."


def load_network(
    kind: str,
    path: Path,
    device: Device,
    uploader: WeightUploader | None = None,
    pinned: PinnedWeightCache | None = None,
) -> Any:
    """Load a network of the store in eval mode on the device, with frozen weights.

    Args:
        kind: a key of _NETWORKS.
        path: folder with config.json and one safetensors file.
        device: target device and dtype. An autoencoder with `force_upcast` overflows in float16
            and is loaded in float32.
        uploader: copier of weights to the device; a new one if None.
        pinned: cache of copies in host memory for later loads.

    Raises:
        OSError: config.json is missing.
        ValueError: there is not exactly one safetensors file.
        RuntimeError: the weights do not match the configuration.
    """
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    network = _build(kind, config)
    (file,) = path.glob("*.safetensors")
    dtype = _dtype(kind, network, device)
    if pinned is None:
        weights = (uploader or WeightUploader(device)).upload(load_file(file), dtype)
    else:
        weights = pinned.read(file, dtype)
    if kind == "text_encoder":
        weights = _match_prefix(network, weights)
    if kind == "tiny_decoder":
        # Nothing encodes with it, and files of the decoder alone have no encoder.
        network.encoder = nn.Identity()
        weights = {name: each for name, each in weights.items() if name.startswith(_DECODER)}
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
        # SDXL's original VAE overflows in float16, which results in black images.
        return torch.float32
    return device.dtype


def _match_prefix(network: Any, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Add or remove the prefix of parameter names, which differs between transformers versions."""
    needs_prefix = any(name.startswith(_PREFIX) for name in network.state_dict())
    bare = {name.removeprefix(_PREFIX): tensor for name, tensor in weights.items()}
    return {_PREFIX + name: tensor for name, tensor in bare.items()} if needs_prefix else bare


def _make_buffers(network: Any, device: Device) -> None:
    """Create the buffers that weight files omit: CLIP's position ids.

    Raises:
        RuntimeError: another buffer is missing.
    """
    for name, buffer in network.named_buffers():
        if not buffer.is_meta:
            continue
        owner, _, attribute = name.rpartition(".")
        if attribute != "position_ids":
            raise RuntimeError(f"buffer {name} is missing from the weight file")
        numbers = torch.arange(buffer.shape[-1], device=device.torch_device).expand(buffer.shape)
        network.get_submodule(owner).register_buffer(attribute, numbers, persistent=False)


def load_component(
    kind: str,
    path: Path,
    device: Device,
    uploader: WeightUploader | None = None,
    pinned: PinnedWeightCache | None = None,
) -> Any:
    """Load one component of the store: a network in eval mode on the device, or a tokenizer.

    Args:
        kind: kind of the component.
        path: folder of the component.
        device: target device and dtype; unused for tokenizers.
        uploader: copier of weights to the device; a new one if None.
        pinned: cache of copies in host memory for later loads.

    Raises:
        OSError: files are missing.
        ValueError: there is not exactly one safetensors file.
        RuntimeError: the weights do not match the configuration.
    """
    if kind.startswith("tokenizer"):
        return CLIPTokenizer.from_pretrained(path, local_files_only=True)
    return load_network(kind, path, device, uploader, pinned)


def extract_hint_embedding(name: str, network: Any) -> ControlNet:
    """Move the hint embedding out of a ControlNet's network, which then expects embedded hints."""
    hint = network.controlnet_cond_embedding
    network.controlnet_cond_embedding = nn.Identity()
    return ControlNet(name, network, hint, CrossAttentionCache(network))
