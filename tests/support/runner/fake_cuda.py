"""A GPU on a machine without one: CUDA tensors of true size, whose operators compute nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn

# torch has no public module for its fake tensors, which its own compiler relies on.
from torch._subclasses.fake_tensor import FakeTensorMode

import runners.diffusion.vae
from models.catalog import load_catalog
from runners.device import Device
from runners.diffusion.vae import Pixels
from runners.networks.loading import extract_hint_embedding
from runners.networks.lora.working_copy import WorkingCopy
from runners.networks.sdxl import ControlNet, SdxlModel
from runners.networks.weight_upload import WeightUploader
from testing.flop_count import sdxl_controlnet, sdxl_parts
from tests.support.runner.copy_stream import LateCopyStream

CUDA = Device(torch.device("cuda", 0), torch.float16)
_CARD_BYTES = 24 * 2**30


class FakeEvent:
    """An event of a stream whose work ends when it is launched."""

    def __init__(self, **_: Any) -> None:
        self.recorded = False

    def record(self, *_: Any) -> None:
        self.recorded = True

    def query(self) -> bool:
        return self.recorded

    def synchronize(self) -> None:
        assert self.recorded

    def elapsed_time(self, end: FakeEvent) -> float:
        assert self.recorded
        assert end.recorded
        return 1.0


class FakeCopyStream(LateCopyStream):
    """A stream of copies to the fake card."""

    def device_buffer(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8, device="cuda:0")


class FakeTransfer(runners.diffusion.vae.PixelTransfer):
    """Pixels of a fake image: the copies are launched, and black arrives."""

    def wait(self) -> Pixels:
        return np.zeros(tuple(self._pixels.shape), np.uint8)


@contextlib.contextmanager
def fake_cuda(mode: FakeTensorMode, free_bytes: int = _CARD_BYTES) -> Iterator[None]:
    """Make new tensors fake, with a card that has so much free memory.

    A read of a device value by the host raises, and so does an operator on two devices.
    """
    plain_empty = torch.empty

    def empty(*sizes: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        return plain_empty(*sizes, **options)

    patches: list[contextlib.AbstractContextManager[Any]] = [
        mock.patch.object(torch, "empty", empty),
        mock.patch.object(torch.cuda, "Event", FakeEvent),
        mock.patch.object(torch.cuda, "mem_get_info", return_value=(free_bytes, _CARD_BYTES)),
        mock.patch.object(torch.cuda, "memory_reserved", return_value=0),
        mock.patch.object(torch.cuda, "memory_allocated", return_value=0),
        mock.patch.object(runners.diffusion.vae, "PixelTransfer", FakeTransfer),
    ]
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        stack.enter_context(mode)
        yield


def to_cuda(network: nn.Module, is_channels_last: bool = False) -> nn.Module:
    """Give a network of the meta device fake CUDA tensors; inside `fake_cuda`."""

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        made = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda:0")
        is_turned = is_channels_last and made.dim() == 4
        return made.to(memory_format=torch.channels_last) if is_turned else made

    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(fake(parameter), requires_grad=False))
        for name, buffer in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, fake(buffer), persistent=False)
    return network


def cuda_networks(
    mode: FakeTensorMode, working_copy: WorkingCopy | None = None
) -> tuple[SdxlModel, ControlNet]:
    """SDXL and its small depth ControlNet as fake CUDA tensors."""
    parts, controlnet = sdxl_parts(), sdxl_controlnet("small")
    spec = load_catalog("experimance").models["lightning"]
    # `Module.to` exchanges tensors, which fake ones do not allow.
    with fake_cuda(mode), mock.patch.object(nn.Module, "to"):
        for kind, part in parts.items():
            if isinstance(part, nn.Module):
                to_cuda(part, is_channels_last=kind in {"vae", "tiny_decoder"})
        WeightUploader(CUDA, FakeCopyStream()).move(parts["unet"])
        variant = SdxlModel.from_components("lightning", spec, parts, "fake", working_copy)
        return variant, extract_hint_embedding("depth", to_cuda(controlnet))
