"""Compilation of the networks' repeated blocks (COMPILE=regional).

All transformer blocks run the same code with different weights. Compiling one block and reusing it
takes minutes less than compiling whole networks. Weights and LoRAs are inputs of the compiled graph
and sizes are symbolic, so neither triggers a recompilation.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal

import structlog
import torch
from diffusers.models.attention import BasicTransformerBlock
from msgspec.structs import replace
from torch import nn

from runners.device import Device
from runners.diffusion.denoise import predict_noise
from runners.diffusion.dummy_inputs import dummy_controlnet_inputs, dummy_job, dummy_samples
from runners.networks.sdxl import ControlNet, SdxlModel
from runners.networks.static_conditioning import CrossAttentionCache

log = structlog.get_logger(__name__)

Mode = Literal["off", "regional"]
Backend = str | Callable[..., Any]

_SIDE = 256
"""Edge length in pixels of ControlNet inputs for compilation; sizes are symbolic, so any works."""


class Compiler:
    """Compiler of freshly loaded networks, active if requested and supported on this machine.

    Args:
        mode: the COMPILE setting.
        backend: the backend of `torch.compile`; tests pass a fast one.
        device: the target device; the CPU if None.
    """

    def __init__(
        self, mode: Mode = "off", backend: Backend = "inductor", device: Device | None = None
    ) -> None:
        self._backend = backend
        self._device = torch.device("cpu") if device is None else device.torch_device
        self._compiled: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self.active = mode == "regional" and self._is_supported()

    def configure_thread(self) -> None:
        """Set torch's compiler options for the calling thread.

        The options are thread-local, so every thread that compiles or runs steps calls this once.
        """
        if not self.active:
            return
        # The public torch.compiler.config has only the last of these options.
        options = torch._dynamo.config  # noqa: SLF001
        # A block that fails to compile runs eagerly, with torch's warning in the log.
        options.suppress_errors = True
        # Blocks with and without adapter hooks need separate graphs.
        options.skip_nnmodule_hook_guards = False
        # Two block widths, one or several rows, and several sizes each take one cache entry.
        options.cache_size_limit = 64

    def compile_blocks(self, network: nn.Module) -> None:
        """Mark a network's transformer blocks for compilation at their first call."""
        if not self.active:
            return
        self.configure_thread()
        for block in blocks_of(network):
            block.compile(backend=self._backend, dynamic=True)

    def compile_unet(self, variant: SdxlModel, device: Device) -> None:
        """Compile a variant's UNet now, for one row and for several.

        torch specializes a batch size of one. Image sizes and larger row counts are symbolic.
        """
        # The steps of another variant may run on a shared UNet now, and bind their text to it.
        if not self.active or variant.unet in self._compiled:
            return
        self.compile_blocks(variant.unet)
        started = time.monotonic()
        no_controlnet = ControlNet("", nn.Module(), nn.Identity(), CrossAttentionCache(nn.Module()))
        job = dummy_job(variant, no_controlnet, variant.spec.native_size)
        job = replace(job, controlnet_strength=0.0)
        for rows in (1, 2):
            predict_noise(dummy_samples(job, variant, no_controlnet, device, rows), device)
        seconds = round(time.monotonic() - started, 1)
        self._compiled.add(variant.unet)
        log.info("compiled", model=variant.name, seconds=seconds, graphs=compiled_graphs())

    @torch.inference_mode()
    def compile_controlnet(self, controlnet: ControlNet, device: Device) -> None:
        """Compile a ControlNet now, as `compile_unet` does; small ones have nothing to compile."""
        network = controlnet.network
        self.compile_blocks(network)
        if not self.active or not blocks_of(network):
            return
        started = time.monotonic()
        for rows in (1, 2):
            arguments = dummy_controlnet_inputs(controlnet, device, rows, _SIDE)
            with controlnet.cross_attention.bind(
                controlnet.cross_attention.compute(arguments["encoder_hidden_states"])
            ):
                network(**arguments)
        seconds = round(time.monotonic() - started, 1)
        log.info("compiled", controlnet=controlnet.name, seconds=seconds, graphs=compiled_graphs())

    def _is_supported(self) -> bool:
        """Return whether a trivial function compiles and runs on the device."""
        try:
            compiled = torch.compile(_double, backend=self._backend)
            compiled(torch.ones(4, device=self._device))
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
            log.warning("not compiled", reason=f"{type(error).__name__}: {reason}")
            return False
        finally:
            torch.compiler.reset()
        return True


def blocks_of(network: nn.Module) -> Sequence[Any]:
    """Return the transformer blocks of a UNet or a ControlNet."""
    return [module for module in network.modules() if isinstance(module, BasicTransformerBlock)]


def compiled_graphs() -> int:
    """Return the number of distinct graphs compiled in this process."""
    # torch has no public count of graphs.
    count: int = torch._dynamo.utils.counters["stats"]["unique_graphs"]  # noqa: SLF001
    return count


def _double(numbers: torch.Tensor) -> torch.Tensor:
    return numbers * 2 + 1
