"""Which implementation of attention the transformer blocks use."""

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
Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 2e-2}
# SDXL's: heads of 64; a picture attends to itself and to 77 tokens.
_HEADS, _HEAD_DIM, _POSITIONS, _TEXT = 2, 64, 128, 77


def sdpa(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """torch's own: [R, heads, S, D] and twice [R, heads, L, D] to [R, heads, S, D]."""
    return F.scaled_dot_product_attention(query, key, value)


class _Chosen:
    attend: Attend = staticmethod(sdpa)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention by the chosen implementation; shapes as for `sdpa`."""
    return _Chosen.attend(query, key, value)


def choose_attention(backend: Backend, device: Device) -> Backend:
    """Use a backend from now on if it runs here; returns the one that is used.

    xformers imports beside releases of torch that it was not built for, and fails when it is
    called, so it is tried. What does not run is a warning, never a reason not to start.
    """
    _Chosen.attend = staticmethod(sdpa)
    if backend == "sdpa":
        return "sdpa"
    try:
        candidate = _xformers()
        _try(candidate, device)
    except Exception as error:
        log.warning("xformers is not used", reason=f"{type(error).__name__}: {error}")
        return "sdpa"
    _Chosen.attend = staticmethod(candidate)
    return "xformers"


def _xformers() -> Attend:
    memory_efficient: Any = importlib.import_module("xformers.ops").memory_efficient_attention

    def attend_by_xformers(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        # It wants [R, S, heads, D].
        turned = (tensor.transpose(1, 2) for tensor in (query, key, value))
        result: torch.Tensor = memory_efficient(*turned)
        return result.transpose(1, 2)

    return attend_by_xformers


def _try(candidate: Attend, device: Device) -> None:
    """Run it on both kinds of attention and compare with torch's.

    Raises:
        RuntimeError: the results differ; also whatever it raises itself.
    """
    generator = torch.Generator().manual_seed(0)
    for length in (_POSITIONS, _TEXT):
        query, key, value = (
            torch.randn(1, _HEADS, positions, _HEAD_DIM, generator=generator).to(
                device.torch_device, device.dtype
            )
            for positions in (_POSITIONS, length, length)
        )
        difference = (candidate(query, key, value) - sdpa(query, key, value)).abs().max()
        if not float(difference) <= _TOLERANCE[device.dtype]:
            raise RuntimeError(f"its result differs by {float(difference):.1e}")
