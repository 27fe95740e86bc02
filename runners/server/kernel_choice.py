"""Choice of memory formats and convolution algorithms by measurement, at warm-up on a GPU.

Which format is faster depends on the card: a normalization layer may copy channels-last
activations, a convolution may copy contiguous ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import structlog
import torch
from msgspec.structs import replace
from torch import nn

from runners.device import Device
from runners.device_faults import is_out_of_memory
from runners.diffusion import fp16_accumulation
from runners.diffusion.denoise import predict_noise
from runners.diffusion.dummy_inputs import dummy_job, dummy_samples
from runners.diffusion.fp16_accumulation import Mode
from runners.diffusion.vae import decode_latents
from runners.networks.memory_format import MemoryFormats, turn_to_channels_last
from runners.networks.sdxl import ControlNet, SdxlModel

log = structlog.get_logger(__name__)

Work = Callable[[], object]
Measure = Callable[[Work], float]

MAX_SUM_ERROR = 0.01
"""Bound of the error of a guided step with sums in float16, relative to the prediction's norm."""
_GAIN = 0.03
"""Share of the time that another format must save, above the noise of the measurement."""
_IMAGES = 10
_STEPS = 6
"""Images of a new size, and their steps, within which the trials of algorithms must pay off."""
_REPETITIONS = 3
_NAMES = {True: "channels-last", False: "contiguous"}


def measure_seconds(work: Work) -> float:
    """Return the seconds of one call until the GPU has ended it."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def choose_kernels(
    variant: SdxlModel,
    controlnet: ControlNet,
    device: Device,
    formats: MemoryFormats,
    is_compiled: bool = False,
    sums: Mode = "off",
    measure: Measure = measure_seconds,
) -> None:
    """Measure the alternatives on resident networks, keep the faster ones, and log them.

    The work measured is a guided step and a decode at the variant's native size. Lack of memory
    leaves everything as it was. Must run on the device thread.

    Args:
        variant: a resident variant.
        controlnet: a resident ControlNet.
        device: their device.
        formats: receives the formats for networks that are loaded later.
        is_compiled: whether the UNet is compiled; the compiler chooses its own formats.
        sums: the FP16_ACCUMULATION setting; acts in float16 only.
        measure: function that calls its argument once and returns the seconds.
    """
    # A request may have come before the warm-up. Its merged weights must not be taken for the
    # pristine ones, and its plan would hold weights of the format that is left.
    variant.loras.prepare(())
    variant.loras.release_sets()
    job = dummy_job(variant, controlnet, variant.spec.native_size)
    guided = replace(job, guidance_scale=2.0)
    (sample,) = dummy_samples(guided, variant, controlnet, device, 1)

    def step() -> torch.Tensor:
        (prediction,) = predict_noise([sample], device)
        return prediction

    def decode() -> object:
        return decode_latents(sample.latents, variant)

    decoders = [
        network
        for network in (variant.vae, variant.tiny_decoder)
        if network is not None and network.dtype == variant.vae.dtype
    ]
    chosen: dict[str, object] = {}
    # Asked for, they do not depend on a measurement, which may lack the memory.
    fp16_accumulation.enable(sums == "on" and device.dtype == torch.float16)
    try:
        if not is_compiled:
            denoiser = (variant.unet, controlnet.network, controlnet.hint)
            is_last = _choose_format(denoiser, step, measure)
            formats.choose("denoiser", variant.unet.dtype, is_last)
            chosen["denoiser"] = _NAMES[is_last]
        is_last = _choose_format(decoders, decode, measure)
        formats.choose("decoder", variant.vae.dtype, is_last)
        chosen["decoder"] = _NAMES[is_last]
        chosen["convolution_trials"] = _choose_trials(step, decode, measure)
        if sums == "auto" and device.dtype == torch.float16:
            _choose_sums(step, measure)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        chosen["left_out"] = "not enough memory"
    # Outside the handler, whose traceback holds the tensors of the failed attempt.
    device.release_cache()
    log.info("kernels chosen", fp16_accumulation=fp16_accumulation.is_enabled(), **chosen)


def _choose_format(networks: Sequence[nn.Module], work: Work, measure: Measure) -> bool:
    """Give networks the memory format in which `work` is faster; return if it is channels-last."""
    convolutions = [
        tensor for network in networks for tensor in network.parameters() if tensor.dim() == 4
    ]
    # A convolution of 1x1 is in both formats.
    was_last = not all(tensor.is_contiguous() for tensor in convolutions)
    other = torch.contiguous_format if was_last else torch.channels_last
    before = [tensor.data for tensor in convolutions]
    is_faster = False
    seconds = _best(work, measure)
    try:
        for tensor in convolutions:
            tensor.data = tensor.data.contiguous(memory_format=other)
        is_faster = _best(work, measure) < seconds * (1 - _GAIN)
    finally:
        if not is_faster:
            for tensor, data in zip(convolutions, before, strict=True):
                tensor.data = data
    if is_faster and not was_last:
        before.clear()
        for network in networks:
            turn_to_channels_last(network)
    return was_last != is_faster


def _choose_trials(step: Work, decode: Work, measure: Measure) -> bool:
    """Let cuDNN try its algorithms for each new shape if that pays off; return whether it does.

    The first image of each new size takes longer by the trials.
    """
    pays_off = False
    plain = _best(step, measure), _best(decode, measure)
    torch.backends.cudnn.benchmark = True
    try:
        first = measure(step) + measure(decode)
        tried = _best(step, measure), _best(decode, measure)
        before, after = (_IMAGES * (_STEPS * each[0] + each[1]) for each in (plain, tried))
        pays_off = after + first - sum(tried) < before * (1 - _GAIN)
    finally:
        torch.backends.cudnn.benchmark = pays_off
    return pays_off


def _choose_sums(step: Callable[[], torch.Tensor], measure: Measure) -> None:
    """Let matrix products have sums in float16 if they are fast and exact."""
    exact = step()
    seconds = _best(step, measure)
    is_better = False
    fp16_accumulation.enable(True)
    try:
        error = float((step() - exact).norm() / exact.norm())
        # NaN is not below the bound either.
        is_better = error <= MAX_SUM_ERROR and _best(step, measure) < seconds * (1 - _GAIN)
    finally:
        fp16_accumulation.enable(is_better)


def _best(work: Work, measure: Measure) -> float:
    """Return the least seconds of several calls, without the first."""
    measure(work)
    return min(measure(work) for _ in range(_REPETITIONS))
