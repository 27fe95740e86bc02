"""LoRAs: which act on a UNet, and how strongly."""

from __future__ import annotations

import contextlib
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

from runners.byte_cache import ByteCache
from runners.followed import follow
from runners.messages import LoraWeight

_KEPT_SETS = 16
_SET_BYTES = 512 * 2**20


class AdapterError(RuntimeError):
    """A LoRA file that does not fit the UNet; the message says in what."""


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """One layer's share of a LoRA, the alpha folded into `up`.

    Shapes: `down` [r, in] and `up` [out, r] for a linear layer, `down` [r, in, k, k] and `up`
    [out, r, 1, 1] for a convolution.
    """

    down: torch.Tensor
    up: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class AdapterSet:
    """Adapters that act together, at their strengths, by layer; `bytes` are of what it does not
    share with the adapters themselves."""

    layers: Mapping[str, LowRank]
    bytes: int

    @classmethod
    def of(cls, adapters: Sequence[tuple[Mapping[str, LowRank], float]]) -> AdapterSet:
        """What each adapter and its strength come to."""
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
            layers[layer] = LowRank(down, up)
        return cls(layers, own)


class AdapterBank:
    """The LoRAs of one UNet.

    Each is read once and kept in the UNet's dtype. While a set is active, a layer pays for one
    low-rank product however many adapters act on it: their factors lie side by side, the strengths
    folded in (Hu et al., 2021; the sum of products of a concatenation). Between uses the UNet is
    exactly the base: nothing is ever written into its weights. The last 16 sets are kept, within
    512 MiB: a slider makes a new one at every place.
    """

    def __init__(self, unet: nn.Module) -> None:
        self._unet = unet
        self._adapters: dict[str, dict[str, LowRank]] = {}
        self._sets: ByteCache[tuple[LoraWeight, ...], AdapterSet] = ByteCache(
            _SET_BYTES, lambda made: made.bytes, _KEPT_SETS
        )
        self._active: Mapping[str, LowRank] = {}
        self._hooked: set[str] = set()
        self.warnings: dict[str, str] = {}
        self.size = 0
        """Bytes of the adapters that have been read."""

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters that have been read."""
        return tuple(self._adapters)

    @torch.inference_mode()
    def add(self, name: str, path: Path) -> bool:
        """Read a LoRA in diffusers' or kohya's safetensors format; False if it is there already.

        Raises:
            AdapterError: the file names layers that the UNet does not have, or of other shapes.
        """
        if name in self._adapters:
            return False
        # In inference mode, so that compiled blocks see tensors of one kind, whether a set shares
        # them or has made its own.
        layers, ignored = read_lora(path, self._unet)
        for layer in layers.keys() - self._hooked:
            follow(self._unet.get_submodule(layer), weakref.WeakMethod(self._change), layer)
        self._hooked |= layers.keys()
        if ignored:
            self.warnings[name] = f"lora {name}: its {', '.join(ignored)} part is not applied"
        self._adapters[name] = layers
        self.size += sum(part.down.nbytes + part.up.nbytes for part in layers.values())
        return True

    @contextlib.contextmanager
    def active(self, loras: Sequence[LoraWeight]) -> Iterator[None]:
        """Let these adapters act, and no others, until the block ends."""
        self._active = self._sets.get(tuple(loras), lambda: self._combined(loras)).layers
        try:
            yield
        finally:
            self._active = {}

    def release_sets(self) -> None:
        """Let go of the sets, for their memory."""
        self._sets.clear()

    def _combined(self, loras: Sequence[LoraWeight]) -> AdapterSet:
        return AdapterSet.of([(self._adapters[lora.name], lora.strength) for lora in loras])

    def _change(self, layer: str, module: nn.Module, given: torch.Tensor) -> torch.Tensor | None:
        """What the active adapters add to a layer's output, or None."""
        adapter = self._active.get(layer)
        if adapter is None:
            return None
        if isinstance(module, nn.Conv2d):
            reduced = F.conv2d(
                given, adapter.down, None, module.stride, module.padding, module.dilation
            )
            return F.conv2d(reduced, adapter.up)
        return F.linear(F.linear(given, adapter.down), adapter.up)


def read_lora(path: Path, unet: nn.Module) -> tuple[dict[str, LowRank], list[str]]:
    """A LoRA file's layers, in the UNet's dtype and on its device, by the UNet's names for them.

    Returns:
        The layers, and which other networks the file has parts for.

    Raises:
        AdapterError: see AdapterBank.add.
    """
    config: Any = unet.config
    state, alphas = StableDiffusionXLLoraLoaderMixin.lora_state_dict(
        load_file(path), unet_config=config
    )
    factors = convert_unet_state_dict_to_peft(_part(state, "unet."))
    scales = {_layer(key): alpha for key, alpha in _part(alphas or {}, "unet.").items()}
    others = sorted({key.partition(".")[0] for key in state if not key.startswith("unet.")})
    layers = {}
    weights = dict(unet.named_parameters())
    for key, down in factors.items():
        if not key.endswith("lora_A.weight"):
            continue
        layer = key.removesuffix(".lora_A.weight")
        up = factors.get(f"{layer}.lora_B.weight")
        weight = weights.get(f"{layer}.weight")
        if up is None or weight is None:
            raise AdapterError(f"its layer {layer} is not one of this model's")
        if down.shape[1:] != weight.shape[1:] or up.shape[0] != weight.shape[0]:
            raise AdapterError(f"its layer {layer} has another shape than this model's")
        scale = scales.get(layer, down.shape[0]) / down.shape[0]
        layers[layer] = LowRank(down.to(weight), (up * scale).to(weight))
    if not layers:
        raise AdapterError("it has no layers for the UNet")
    return layers, others


def _part(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}


def _layer(alpha_key: str) -> str:
    """The layer of an alpha, whose key is in diffusers' older style with `.alpha` at its end."""
    key = alpha_key.removesuffix(".alpha").removesuffix(".weight").removesuffix(".down")
    key = key.removesuffix(".lora").removesuffix("_lora")
    return key.replace(".processor.", ".").replace(".to_out", ".to_out.0")
