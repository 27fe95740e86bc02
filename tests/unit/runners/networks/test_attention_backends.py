"""Selection of an attention backend that runs here and agrees with torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch

from runners.networks.attention_backends import attention, sdpa, select_backend
from testing.workbench import DEVICE


@pytest.fixture(autouse=True)
def afterwards() -> Iterator[None]:
    yield
    select_backend("sdpa", DEVICE)


@pytest.fixture
def xformers(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    def install(function: Any) -> None:
        module = ModuleType("xformers.ops")
        module.memory_efficient_attention = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "xformers", ModuleType("xformers"))
        monkeypatch.setitem(sys.modules, "xformers.ops", module)

    return install


def right(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """As xformers lays it out: [R, S, heads, D]."""
    turned = (tensor.transpose(1, 2) for tensor in (query, key, value))
    return sdpa(*turned).transpose(1, 2)


def test_working_backend_is_used(xformers: Callable[[Any], None]) -> None:
    calls: list[tuple[int, ...]] = []

    def counted(*tensors: torch.Tensor) -> torch.Tensor:
        calls.append(tuple(tensors[0].shape))
        return right(*tensors)

    xformers(counted)
    assert select_backend("xformers", DEVICE) == "xformers"
    calls.clear()
    query, key = torch.randn(2, 3, 10, 8), torch.randn(2, 3, 77, 8)
    torch.testing.assert_close(attention(query, key, key), sdpa(query, key, key))
    assert calls == [(2, 10, 3, 8)]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda *_: 1 / 0, "ZeroDivisionError"),
        (lambda *tensors: right(*tensors) * 1.1, "its result differs"),
        (lambda *tensors: right(*tensors) * float("nan"), "its result differs"),
    ],
)
def test_failing_backend_falls_back_with_a_warning(
    xformers: Callable[[Any], None],
    function: Any,
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    xformers(function)
    assert select_backend("xformers", DEVICE) == "sdpa"
    assert reason in capsys.readouterr().out
    query = torch.randn(1, 2, 5, 8)
    torch.testing.assert_close(attention(query, query, query), sdpa(query, query, query))


def test_without_xformers_torch_serves(capsys: pytest.CaptureFixture[str]) -> None:
    assert select_backend("xformers", DEVICE) == "sdpa"
    assert "ModuleNotFoundError" in capsys.readouterr().out
