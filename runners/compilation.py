"""Compilation of the networks' repeated blocks (COMPILE=regional).

A transformer block is the same code over and over with other weights, so it is compiled once and
used everywhere: minutes less than compiling whole networks. Weights and LoRAs are inputs of what is
compiled, sizes are symbolic, so neither leads to another compilation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import structlog
import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import nn

from runners.denoise import predict_noise
from runners.device import Device
from runners.networks import ControlNet, Variant
from runners.text_attention import TextBank
from runners.trial import trial_control, trial_job, trial_samples

log = structlog.get_logger(__name__)

Mode = Literal["off", "regional"]
Backend = str | Callable[..., Any]

_SIDE = 256
"""Edge of what ControlNets are compiled with; sizes are symbolic, so any does."""


class Compiler:
    """Compiles networks as they are loaded, if that is asked for and works here.

    Args:
        mode: COMPILE.
        backend: torch.compile's; tests take one that is quick.
        device: what is compiled for.
    """

    def __init__(
        self, mode: Mode = "off", backend: Backend = "inductor", device: Device | None = None
    ) -> None:
        self._backend = backend
        self._device = torch.device("cpu") if device is None else device.torch_device
        self.active = mode == "regional" and self._works()

    def settle(self) -> None:
        """Set the options of torch's compiler for this thread.

        They are per thread, so every thread that compiles or takes steps needs this once.
        """
        if not self.active:
            return
        # A block that cannot be compiled runs as it is, with torch's warning in the log.
        torch._dynamo.config.suppress_errors = True
        # A block whose layers have adapters is another one than a block without.
        torch._dynamo.config.skip_nnmodule_hook_guards = False
        # Blocks of two widths, one row and several, several sizes: each is one version.
        torch._dynamo.config.cache_size_limit = 64

    def regions(self, network: nn.Module) -> None:
        """Let a network's transformer blocks compile themselves when they are first called."""
        if not self.active:
            return
        self.settle()
        for block in blocks_of(network):
            block.compile(backend=self._backend, dynamic=True)

    def variant(self, variant: Variant, device: Device) -> None:
        """Compile a variant's UNet now, for one row and for several.

        Compilers treat a batch of one apart; sizes and further rows are symbolic from the start.
        """
        self.regions(variant.unet)
        if not self.active:
            return
        started = time.monotonic()
        nothing = ControlNet("", nn.Module(), nn.Identity(), TextBank(nn.Module()))
        job = trial_job(variant, nothing, variant.spec.native_size)
        job = replace(job, controlnet_strength=0.0)
        for rows in (1, 2):
            predict_noise(trial_samples(job, variant, nothing, device, rows), device)
        seconds = round(time.monotonic() - started, 1)
        log.info("compiled", model=variant.name, seconds=seconds, graphs=compiled_graphs())

    @torch.inference_mode()
    def controlnet(self, controlnet: ControlNet, device: Device) -> None:
        """Compile a ControlNet now, as `variant` does; the smaller ones have nothing to compile."""
        network = controlnet.network
        self.regions(network)
        if not self.active or not blocks_of(network):
            return
        started = time.monotonic()
        for rows in (1, 2):
            arguments = trial_control(controlnet, device, rows, _SIDE)
            with controlnet.text.bound(controlnet.text.read(arguments["encoder_hidden_states"])):
                network(**arguments)
        seconds = round(time.monotonic() - started, 1)
        log.info("compiled", controlnet=controlnet.name, seconds=seconds, graphs=compiled_graphs())

    def _works(self) -> bool:
        """Whether anything can be compiled here: there must be a compiler for the device."""
        try:
            doubled = torch.compile(_double, backend=self._backend)
            doubled(torch.ones(4, device=self._device))
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
            log.warning("not compiled", reason=f"{type(error).__name__}: {reason}")
            return False
        finally:
            torch._dynamo.reset()
        return True


def blocks_of(network: nn.Module) -> Sequence[Any]:
    """The repeated blocks of a UNet or a ControlNet."""
    return [module for module in network.modules() if isinstance(module, BasicTransformerBlock)]


def compiled_graphs() -> int:
    """How many different graphs have been compiled in this process."""
    count: int = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    return count


def _double(numbers: torch.Tensor) -> torch.Tensor:
    return numbers * 2 + 1
