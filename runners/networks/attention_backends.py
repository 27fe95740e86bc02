"""Attention backends of the transformer blocks and their selection."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Literal

import structlog
import torch
from torch.nn import functional as F

from runners.device import Device

log = structlog.get_logger(__name__)

Backend = Literal["sdpa", "xformers"]
AttentionFn = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 2e-2}
# SDXL has 64 channels per head, self-attention, and cross-attention to 77 tokens.
_HEADS, _HEAD_DIM, _POSITIONS, _TEXT_POSITIONS = 2, 64, 128, 77


def sdpa(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Compute attention with torch's scaled dot-product implementation.

    Args:
        query: [R, heads, S, D].
        key: [R, heads, L, D].
        value: [R, heads, L, D].

    Returns:
        [R, heads, S, D], in the dtype and on the device of the inputs.
    """
    return F.scaled_dot_product_attention(query, key, value)


class _ActiveBackend:
    attend: AttentionFn = staticmethod(sdpa)


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Compute attention with the selected backend.

    Args:
        query: [R, heads, S, D].
        key: [R, heads, L, D].
        value: [R, heads, L, D].

    Returns:
        [R, heads, S, D], in the dtype and on the device of the inputs.
    """
    return _ActiveBackend.attend(query, key, value)


def select_backend(backend: Backend, device: Device) -> Backend:
    """Select a backend if it works on the device, and return the selected one.

    xformers can be imported with torch releases that it was not built for, and then fails at its
    first call, so a trial call decides. A failure is logged as a warning and selects `sdpa`.
    """
    _ActiveBackend.attend = staticmethod(sdpa)
    if backend == "sdpa":
        return "sdpa"
    try:
        candidate = _import_xformers()
        _verify(candidate, device)
    except Exception as error:
        log.warning("xformers is not used", reason=f"{type(error).__name__}: {error}")
        return "sdpa"
    _ActiveBackend.attend = staticmethod(candidate)
    return "xformers"


def _import_xformers() -> AttentionFn:
    memory_efficient: Any = importlib.import_module("xformers.ops").memory_efficient_attention

    def attend_by_xformers(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        # xformers expects [R, S, heads, D].
        transposed = (tensor.transpose(1, 2) for tensor in (query, key, value))
        result: torch.Tensor = memory_efficient(*transposed)
        return result.transpose(1, 2)

    return attend_by_xformers


def _verify(candidate: AttentionFn, device: Device) -> None:
    """Compare the candidate with `sdpa` on self-attention and cross-attention.

    Raises:
        RuntimeError: the results differ. Exceptions of the candidate propagate.
    """
    generator = torch.Generator().manual_seed(0)
    for length in (_POSITIONS, _TEXT_POSITIONS):
        query, key, value = (
            torch.randn(1, _HEADS, positions, _HEAD_DIM, generator=generator).to(
                device.torch_device, device.dtype
            )
            for positions in (_POSITIONS, length, length)
        )
        difference = (candidate(query, key, value) - sdpa(query, key, value)).abs().max()
        if not float(difference) <= _TOLERANCE[device.dtype]:
            raise RuntimeError(f"its result differs by {float(difference):.1e}")
