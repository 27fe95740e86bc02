"""LoRAs of a UNet (arXiv:2106.09685): reading, combination and activation."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders import StableDiffusionXLLoraLoaderMixin
from diffusers.utils import convert_unet_state_dict_to_peft
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from common.lru_cache import LRUCache
from common.protocol import LoraWeight
from runners.device import Device
from runners.errors import AdapterError
from runners.networks.lora_hooks import add_output_hook
from runners.networks.weight_upload import WeightUploader

_MAX_SETS = 16
_SET_BYTES = 512 * 2**20


@dataclass(frozen=True, slots=True, eq=False)
class LoraLayer:
    """Low-rank factors of one layer in the UNet's dtype, with the alpha folded into `up`.

    Shapes: `down` [r, in] and `up` [out, r] for a linear layer, `down` [r, in, k, k] and `up`
    [out, r, 1, 1] for a convolution.
    """

    down: torch.Tensor
    up: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class LoraCombination:
    """Combined adapters at their strengths, by layer.

    `bytes` counts only tensors that are not shared with the adapters.
    """

    layers: Mapping[str, LoraLayer]
    bytes: int

    @classmethod
    def from_layers(
        cls, adapters: Sequence[tuple[Mapping[str, LoraLayer], float]]
    ) -> LoraCombination:
        """Combine adapters, each inputs with its strength."""
        layers = {}
        own = 0
        for layer in dict.fromkeys(layer for adapter, _ in adapters for layer in adapter):
            parts = [
                (adapter[layer], strength) for adapter, strength in adapters if layer in adapter
            ]
            (first, strength), *more = parts
            if more:
                down = torch.cat([part.down for part, _ in parts])
                up = torch.cat([part.up * strength for part, strength in parts], dim=1)
                own += down.nbytes + up.nbytes
            elif strength == 1.0:
                down, up = first.down, first.up
            else:
                down, up = first.down, first.up * strength
                own += up.nbytes
            layers[layer] = LoraLayer(down, up)
        return cls(layers, own)


class LoraManager:
    """LoRAs of one UNet (arXiv:2106.09685).

    Each LoRA is read once and stored in the UNet's dtype. An active set costs a layer one low-rank
    product for any number of adapters, because their factors are concatenated with the strengths
    folded in. The UNet's weights are never modified. The last 16 sets are cached, up to 512 MiB,
    because a strength slider creates a new set at every position.

    Args:
        unet: the network whose layers the adapters change.
        max_set_bytes: maximum bytes of the cached sets beyond the adapters.
    """

    def __init__(self, unet: nn.Module, max_set_bytes: int = _SET_BYTES) -> None:
        self._unet = unet
        self._lock = threading.Lock()
        self._adapters: dict[str, dict[str, LoraLayer]] = {}
        self._sets: LRUCache[tuple[LoraWeight, ...], LoraCombination] = LRUCache(
            max_set_bytes, lambda combination: combination.bytes, _MAX_SETS
        )
        self._active: Mapping[str, LoraLayer] = {}
        self._hooked: set[str] = set()
        self.warnings: dict[str, str] = {}

    @property
    def size(self) -> int:
        """Bytes of the loaded adapters."""
        with self._lock:
            adapters = list(self._adapters.values())
        return sum(part.down.nbytes + part.up.nbytes for a in adapters for part in a.values())

    @property
    def set_bytes(self) -> int:
        """Bytes of the cached sets beyond the adapters."""
        return self._sets.used_bytes

    @property
    def active_layers(self) -> Mapping[str, LoraLayer]:
        """Combined factors of the active adapters by layer; empty outside `activate`."""
        return self._active

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the loaded adapters."""
        with self._lock:
            return tuple(self._adapters)

    @torch.inference_mode()
    def add(self, name: str, path: Path, uploader: WeightUploader | None = None) -> bool:
        """Read a LoRA in diffusers' or kohya's safetensors format; return False if already loaded.

        Args:
            name: name of the adapter.
            path: the file.
            uploader: copier of weights to the UNet's device; a new one if None.

        Raises:
            AdapterError: the file's layers do not match the UNet in name or shape.
        """
        if name in self._adapters:
            return False
        # All adapter tensors are inference tensors, so that compiled blocks see one kind of tensor
        # for shared and for combined factors.
        layers, ignored = read_lora(path, self._unet, uploader)
        for layer in layers.keys() - self._hooked:
            add_output_hook(self._unet.get_submodule(layer), weakref.WeakMethod(self._delta), layer)
        self._hooked |= layers.keys()
        if ignored:
            self.warnings[name] = f"lora {name}: its {', '.join(ignored)} part is not applied"
        with self._lock:
            self._adapters[name] = layers
        return True

    def remove(self, name: str) -> None:
        """Forget an adapter and the sets with it; no request may use it."""
        with self._lock:
            del self._adapters[name]
            self._sets.clear()
        self.warnings.pop(name, None)

    @contextlib.contextmanager
    def activate(self, loras: Sequence[LoraWeight]) -> Iterator[None]:
        """Apply exactly these adapters until the block ends."""
        with self._lock:
            combination = self._sets.get_or_create(tuple(loras), lambda: self._combine(loras))
        self._active = combination.layers
        try:
            yield
        finally:
            self._active = {}

    def release_sets(self) -> None:
        """Evict all cached sets to free memory. Thread-safe."""
        with self._lock:
            self._sets.clear()

    def _combine(self, loras: Sequence[LoraWeight]) -> LoraCombination:
        return LoraCombination.from_layers(
            [(self._adapters[lora.name], lora.strength) for lora in loras]
        )

    def _delta(self, layer: str, module: nn.Module, inputs: torch.Tensor) -> torch.Tensor | None:
        """Return the output delta of the active adapters for a layer, or None."""
        adapter = self._active.get(layer)
        if adapter is None:
            return None
        if isinstance(module, nn.Conv2d):
            reduced = F.conv2d(
                inputs, adapter.down, None, module.stride, module.padding, module.dilation
            )
            return F.conv2d(reduced, adapter.up)
        return F.linear(F.linear(inputs, adapter.down), adapter.up)


def read_lora(
    path: Path, unet: nn.Module, uploader: WeightUploader | None = None
) -> tuple[dict[str, LoraLayer], list[str]]:
    """Read a LoRA file into the UNet's dtype and onto its device.

    Args:
        path: the file.
        unet: the UNet.
        uploader: copier of weights to the UNet's device; a new one if None.

    Returns:
        The layers by UNet module name, and the names of other networks in the file.

    Raises:
        AdapterError: the file's layers do not match the UNet in name or shape.
    """
    config: Any = unet.config
    state, alphas = StableDiffusionXLLoraLoaderMixin.lora_state_dict(
        load_file(path), unet_config=config
    )
    factors = convert_unet_state_dict_to_peft(_select_prefix(state, "unet."))
    scales = {
        _layer_of_alpha(key): alpha for key, alpha in _select_prefix(alphas or {}, "unet.").items()
    }
    others = sorted({key.partition(".")[0] for key in state if not key.startswith("unet.")})
    found: dict[str, torch.Tensor] = {}
    weights = dict(unet.named_parameters())
    for key, down in factors.items():
        if not key.endswith("lora_A.weight"):
            continue
        layer = key.removesuffix(".lora_A.weight")
        up = factors.get(f"{layer}.lora_B.weight")
        weight = weights.get(f"{layer}.weight")
        if up is None or weight is None:
            raise AdapterError(f"layer {layer} does not exist in this model")
        if down.shape[1:] != weight.shape[1:] or up.shape[0] != weight.shape[0]:
            raise AdapterError(f"the shape of layer {layer} does not match this model")
        scale = scales.get(layer, down.shape[0]) / down.shape[0]
        found[f"{layer}.down"] = down.to(weight.dtype)
        found[f"{layer}.up"] = (up * scale).to(weight.dtype)
    if not found:
        raise AdapterError("the file has no layers for the UNet")
    # All factors travel as one buffer.
    moved = (uploader or _make_uploader(unet)).upload(found)
    names = [key.removesuffix(".down") for key in found if key.endswith(".down")]
    layers = {name: LoraLayer(moved[f"{name}.down"], moved[f"{name}.up"]) for name in names}
    return layers, others


def _make_uploader(unet: nn.Module) -> WeightUploader:
    weight = next(unet.parameters())
    return WeightUploader(Device(weight.device, weight.dtype))


def _select_prefix(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}


def _layer_of_alpha(alpha_key: str) -> str:
    """Return the layer name of an alpha key, which uses diffusers' older naming plus `.alpha`."""
    key = alpha_key.removesuffix(".alpha").removesuffix(".weight").removesuffix(".down")
    key = key.removesuffix(".lora").removesuffix("_lora")
    return key.replace(".processor.", ".").replace(".to_out", ".to_out.0")
